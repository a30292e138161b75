"""What every command that runs assets does: plan, then show, hand over, or run and watch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from assets_pkg.cli.jobs import HERE, Where, hand_over
from assets_pkg.cli.terminal import EXIT_FAILED, console, errors
from assets_pkg.profile import Profile
from assets_pkg.stages import STAGES

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.plan import Plan

QUIET_LIBRARIES = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "LANCEDB_LOG": "error",
    "ORT_DISABLE_TELEMETRY": "1",
}


def run_or_show(profile: Profile, assets: list[str], dry_run: bool, where: Where = HERE) -> None:
    """Run what is missing or stale of ``assets``, or show the plan (``dry_run``), or submit it as a job."""
    from assets_pkg.display import show_plan
    from assets_pkg.equipment import equip
    from assets_pkg.instance import end_dead_runs, open_instance
    from assets_pkg.plan import make_plan
    from assets_pkg.probes import build_probes
    from assets_pkg.summary import show_made, show_summary
    from storage.opening import open_store

    equip(profile).compute.check()  # before anything is recorded: does each place that is named take a job?
    defs = definitions(profile)
    with open_instance() as instance:
        for run_id in end_dead_runs(instance):
            console.print(f"run {run_id[:8]} had been killed: marked as failed, its finished steps are kept")
        plan = make_plan(defs, instance, assets, build_probes(profile))
        if dry_run:
            show_plan(console, plan)
            _show_forecast(profile, plan, instance)
            return
        if plan.to_run and where.detached:
            hand_over(profile, instance, defs, plan.to_run, where)
            return
        if plan.to_run:
            open_store(profile.artifact_root).check()
            _execute(defs, instance, plan)
        else:
            console.print("nothing is stale: nothing to run", style="green")
        if any(asset in tuning for tuning in STAGES.values() for asset in assets):
            show_summary(console, instance, profile)
        else:
            show_made(console, instance, profile, assets)


def definitions(profile: Profile) -> dg.Definitions:
    """The asset graph, built for a terminal: libraries keep their bars and notes to themselves."""
    # Read by the libraries when they are first imported: idle threads that sleep, and no bars of their own.
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    from assets_pkg.build import build_definitions

    return build_definitions(profile)


def _show_forecast(profile: Profile, plan: Plan, instance: dg.DagsterInstance) -> None:
    from assets_pkg.door import Inputs
    from assets_pkg.sdg.forecast import forecast
    from resources.artifacts import ArtifactStoreResource
    from storage.artifacts import Corpus, Passages

    made = None
    if {"raw_corpus", "passages"} <= {asset.name for asset in plan.assets if asset.state == "fresh"}:
        inputs = Inputs(instance, ArtifactStoreResource(root=profile.artifact_root))
        made = inputs.input(Corpus, "raw_corpus"), inputs.input(Passages, "passages")
    for line in forecast(profile, plan, made):
        console.print(line, highlight=False)


def _execute(defs: dg.Definitions, instance: dg.DagsterInstance, plan: Plan) -> None:
    from assets_pkg.display import live_display
    from assets_pkg.runner import run_assets

    with live_display(console, len(plan.to_run)):
        outcome = run_assets(defs, instance, plan.to_run)
    if outcome.succeeded:
        return
    for failure in outcome.failures:
        if failure.trace:
            errors.print(failure.trace, markup=False, highlight=False)
        errors.print(f"[red]failed[/] {failure.step}: ", end="", highlight=False)
        errors.print(failure.message, markup=False, highlight=False)
    errors.print("finished steps are kept: the same command goes on from here", highlight=False)
    raise typer.Exit(EXIT_FAILED)
