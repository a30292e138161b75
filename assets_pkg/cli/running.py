"""What every command that runs assets does: make a plan, then show it, submit it as a job, or run it."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

import typer

from assets_pkg.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, console, errors, plain
from assets_pkg.cli.jobs import IN_PROCESS, JobOptions, submit_or_write
from assets_pkg.config.stages import STAGE_OF, STAGES

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.config.profile import Profile
    from assets_pkg.orchestration.plan import Plan

QUIET_LIBRARIES = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "LANCEDB_LOG": "error",
    "ORT_DISABLE_TELEMETRY": "1",
}


def run_or_show(
    profile: Profile,
    assets: list[str],
    dry_run: bool,
    options: JobOptions = IN_PROCESS,
    forced: Collection[str] = (),
) -> None:
    """Run what is missing or stale of ``assets`` and all of ``forced``, or show the plan (``dry_run``), or submit it as
    a job."""
    from assets_pkg.automation.external_changes import build_probes
    from assets_pkg.cli.preflight import require_ready
    from assets_pkg.cli.summary import show_benchmarks, show_run, show_summary
    from assets_pkg.evaluation.promotion import restore_pointer
    from assets_pkg.orchestration.instance import end_dead_runs, instance_to_read, open_instance
    from assets_pkg.orchestration.plan import make_plan
    from assets_pkg.orchestration.resources import build_resources
    from storage.remote_store import open_store

    # Unusable compute targets are an error before anything is recorded.
    build_resources(profile).compute.get().check()
    defs = definitions(profile)
    with instance_to_read() if dry_run else open_instance() as instance:
        for run_id in end_dead_runs(instance):
            console.print(
                f"run {run_id[:8]} had been killed: it is marked as failed, and its finished steps are kept"
            )
        plan = make_plan(defs, instance, assets, build_probes(profile), forced)
        if dry_run:
            _show(profile, plan, instance)
            return
        plan.require_inputs()
        if plan.to_run and options.detached:
            submit_or_write(profile, instance, defs, plan.to_run, options, forced)
            return
        if plan.to_run:
            store = open_store(profile.artifact_root)
            store.check()
            require_ready(profile, plan)
            restore_pointer(instance, store)
            ran = _execute(defs, instance, plan, forced)
        else:
            ran = ""
            console.print("nothing is stale: nothing to run", style="green")
        if any(STAGE_OF[asset] in STAGES for asset in assets):
            show_summary(console, instance, profile, assets)
        else:
            show_benchmarks(console, instance, profile, assets)
        if ran:
            show_run(console, instance, ran, len(plan.assets) - len(plan.to_run))


def _show(profile: Profile, plan: Plan, instance: dg.DagsterInstance) -> None:
    """The dry run: the plan, its inputs and settings. Only what would fail for sure is an error."""
    from assets_pkg.cli.dry_run import check_given, show_engine, show_files, show_inputs, show_settings
    from assets_pkg.cli.progress import show_plan
    from assets_pkg.corpus.sources import check_source

    show_plan(console, plan)
    show_inputs(console, plan)
    show_settings(console, profile, plan)
    if "tensorrt_engine" in plan.to_run:
        show_engine(console, profile)
    check_given(profile, plan)
    if "raw_corpus" in plan.to_run:
        check_source(profile.corpus)
        show_files(console, profile)
    _show_forecast(profile, plan, instance)


def definitions(profile: Profile) -> dg.Definitions:
    """The asset graph, with the libraries' own progress bars and messages off."""
    # Read by the libraries when they are first imported. PASSIVE: idle OpenMP threads sleep.
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    from assets_pkg.build import build_definitions

    return build_definitions(profile)


def _show_forecast(profile: Profile, plan: Plan, instance: dg.DagsterInstance) -> None:
    from assets_pkg.orchestration.upstream import UpstreamArtifacts
    from assets_pkg.sdg.forecast import forecast
    from resources.configurable import ArtifactStoreResource
    from storage.artifacts import Corpus, Passages

    current = None
    if {"raw_corpus", "passages"} <= {asset.name for asset in plan.assets if asset.state == "fresh"}:
        inputs = UpstreamArtifacts(instance, ArtifactStoreResource(root=profile.artifact_root))
        current = inputs.input(Corpus, "raw_corpus"), inputs.input(Passages, "passages")
    for line in forecast(profile, plan, current):
        console.print(plain(line), highlight=False)


def _execute(defs: dg.Definitions, instance: dg.DagsterInstance, plan: Plan, forced: Collection[str]) -> str:
    """Run what the plan says; returns the run's id."""
    from assets_pkg.automation.execute import run_assets
    from assets_pkg.cli.progress import live_display
    from assets_pkg.orchestration.asset_context import forced_tag

    with live_display(console, len(plan.to_run)):
        outcome = run_assets(defs, instance, plan.to_run, tags=forced_tag(forced), planned_with=plan.events)
    if outcome.succeeded:
        return outcome.run_id
    if outcome.interrupted:
        errors.print(
            f"stopped in {outcome.interrupted}; finished steps are kept: the same command continues from there",
            highlight=False,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    for failure in outcome.failures:
        if failure.trace:
            errors.print(failure.trace, markup=False, highlight=False)
        errors.print(f"[red]failed[/] {failure.step}: ", end="", highlight=False)
        errors.print(failure.message, markup=False, highlight=False)
    errors.print("finished steps are kept: run the same command again to continue", highlight=False)
    raise typer.Exit(EXIT_FAILED)
