"""``--run``, ``--batch`` and ``--stage``, and ``retune jobs``: work on compute targets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from assets_pkg.cli.common import (
    EXIT_FAILED,
    ConfigOption,
    Overrides,
    console,
    load_settings,
    plain,
    tables,
)

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.automation.detached_jobs import DetachedJobs
    from assets_pkg.config.profile import Profile

jobs = typer.Typer(help="Detached jobs: list, logs, cancel, pick-up.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="The job's name, or a unique prefix of it.")]


@dataclass(frozen=True)
class JobOptions:
    """The job options of a command. ``run_on``: a compute target, and the command waits for the work; ``batch``: a
    compute target for one detached job; ``stage``: only write the job. Without any the work runs in this process."""

    run_on: str | None = None
    batch: str | None = None
    stage: bool = False

    def __post_init__(self) -> None:
        if self.run_on and self.batch:
            raise typer.BadParameter("--run waits for the work, --batch does not: use one of them")
        if self.stage and not (self.run_on or self.batch):
            raise typer.BadParameter("--stage needs a compute target: --run NAME or --batch NAME")

    @property
    def detached(self) -> bool:
        return bool(self.batch) or self.stage

    def overrides(self, overrides: Sequence[str] | None) -> list[str]:
        """The command's overrides, and the compute target as settings."""
        target = self.run_on or self.batch
        return [*(overrides or []), *([f"compute.run_on={target}", "compute.stages={}"] if target else [])]


IN_PROCESS = JobOptions()


def submit_or_write(
    profile: Profile,
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    assets: Sequence[str],
    options: JobOptions,
    forced: Collection[str] = (),
) -> None:
    """Submit ``assets`` as one detached job, or with ``--stage`` only write its files. ``forced``: those of them that
    are built even if they were built before."""
    detached = _detached_jobs(profile)
    if options.stage:
        script = detached.stage(instance, defs, assets, forced)
        console.print(script.read_text("utf-8") if script.exists() else str(script), markup=False)
        console.print(f"nothing was submitted; to run it: bash {script}", markup=False)
        return
    job = detached.submit(instance, defs, assets, forced)
    console.print(f"submitted {job.name} to {plain(job.target_name)} as {plain(job.handle)}", highlight=False)
    console.print(f"its state: retune jobs list; its log: retune jobs logs {job.name}", highlight=False)
    console.print(
        "after its end its results are published by the sensor of `retune ui` or `retune jobs pick-up`"
    )


@jobs.command("list")
def list_jobs(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Every detached job and its state, newest first."""
    detached = _detached_jobs(load_settings(config, overrides))
    table = Table(box=None, pad_edge=False)
    for column in ("job", "target", "handle", "state", "assets"):
        table.add_column(column, overflow="fold", no_wrap=column in ("job", "target", "handle"))
    for job in detached.all():
        row = (job.name, job.target_name, job.handle, detached.describe(job), ", ".join(job.assets))
        table.add_row(*map(plain, row))
    tables.print(table if table.rows else "no job was submitted", soft_wrap=False)


@jobs.command("logs")
def show_log(name: NameArgument, config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Print a job's log."""
    detached = _detached_jobs(load_settings(config, overrides))
    console.print(detached.log(detached.find(name)), markup=False, highlight=False)


@jobs.command("cancel")
def cancel_job(name: NameArgument, config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Cancel a job; steps that it has finished are kept."""
    detached = _detached_jobs(load_settings(config, overrides))
    job = detached.find(name)
    detached.cancel(job)
    console.print(f"cancelled {plain(job.name)}", highlight=False)


@jobs.command("pick-up")
def pick_up(config: ConfigOption = "", overrides: Overrides = None) -> None:
    """Materialize what completed jobs have built. Exit code 1 if a job or a materialization failed."""
    from assets_pkg.automation.execute import run_assets
    from assets_pkg.build import build_definitions
    from assets_pkg.config.profile import Profile
    from assets_pkg.orchestration.instance import open_instance

    detached = _detached_jobs(load_settings(config, overrides))
    good = True
    with open_instance() as instance:
        for job, state in detached.open():
            console.print(f"{plain(job.name)}: {plain(state)}", highlight=False)
            good &= state.status not in ("failed", "cancelled")
            if state.status == "done":
                profile = Profile.model_validate_json(job.profile)
                outcome = run_assets(build_definitions(profile), instance, job.assets, tags=job.tags)
                good &= outcome.succeeded
                if outcome.succeeded:
                    detached.mark_taken(job)
                for failure in outcome.failures:
                    console.print(f"{failure.step}: {failure.message}", markup=False, highlight=False)
    raise typer.Exit(0 if good else EXIT_FAILED)


def _detached_jobs(profile: Profile) -> DetachedJobs:
    from assets_pkg.automation.detached_jobs import open_detached_jobs

    return open_detached_jobs(profile)
