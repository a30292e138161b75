"""``--run``, ``--batch`` and ``--stage``, and ``retune jobs``: work that runs somewhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from assets_pkg.cli.common import DEFAULT_PROFILE, EXIT_FAILED, ConfigOption, Overrides, console, tables
from assets_pkg.config.profile import Profile, load_profile

if TYPE_CHECKING:
    import dagster as dg

    from assets_pkg.automation.detached_jobs import DetachedJobs

jobs = typer.Typer(
    help="Detached jobs: their states and logs, cancelling them, picking up what they made.",
    no_args_is_help=True,
)
NameArgument = Annotated[str, typer.Argument(help="The job's name, or its beginning.")]


@dataclass(frozen=True)
class Where:
    """Where a command's work runs, as the user said: attached at ``run_on``, detached at ``batch``, or here."""

    run_on: str | None = None
    batch: str | None = None
    stage: bool = False

    def __post_init__(self) -> None:
        if self.run_on and self.batch:
            raise typer.BadParameter("--run waits for the work, --batch leaves it: give one of them")
        if self.stage and not (self.run_on or self.batch):
            raise typer.BadParameter("--stage needs a place: --run NAME or --batch NAME")

    @property
    def detached(self) -> bool:
        return bool(self.batch) or self.stage

    def overrides(self, given: Sequence[str] | None) -> list[str]:
        """The command's overrides, and the place among them."""
        place = self.run_on or self.batch
        return [*(given or []), *([f"compute.run_on={place}", "compute.stages={}"] if place else [])]


HERE = Where()


def hand_over(
    profile: Profile,
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    assets: Sequence[str],
    where: Where,
) -> None:
    """Submit ``assets`` as one detached job, or only write what would be submitted."""
    batches = _batches(profile)
    if where.stage:
        script = batches.stage(instance, defs, assets)
        console.print(script.read_text("utf-8") if script.exists() else str(script), markup=False)
        console.print(f"nothing was submitted; by hand: bash {script}", markup=False)
        return
    batch = batches.submit(instance, defs, assets)
    console.print(f"submitted {batch.name} to {batch.target_name} as {batch.handle}", highlight=False)
    console.print(f"its state: retune jobs list; its log: retune jobs logs {batch.name}", highlight=False)
    console.print("when it has ended: the sensor of `retune ui` picks it up, or `retune jobs pick-up`")


@jobs.command("list")
def list_jobs(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Every detached job, newest first, and how it stands."""
    batches = _batches(load_profile(config, overrides or []))
    table = Table(box=None, pad_edge=False)
    for column in ("job", "place", "handle", "state", "assets"):
        table.add_column(column, overflow="fold", no_wrap=column in ("job", "place", "handle"))
    for batch in batches.all():
        made = ", ".join(batch.assets)
        table.add_row(batch.name, batch.target_name, batch.handle, batches.describe(batch), made)
    tables.print(table if table.rows else "no job was submitted", soft_wrap=False)


@jobs.command("logs")
def show_log(name: NameArgument, config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """What a job has written."""
    batches = _batches(load_profile(config, overrides or []))
    console.print(batches.log(batches.find(name)), markup=False, highlight=False)


@jobs.command("cancel")
def cancel_job(
    name: NameArgument, config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None
) -> None:
    """End a job; what it finished stays."""
    batches = _batches(load_profile(config, overrides or []))
    batch = batches.find(name)
    batches.cancel(batch)
    console.print(f"cancelled {batch.name}", highlight=False)


@jobs.command("pick-up")
def pick_up(config: ConfigOption = DEFAULT_PROFILE, overrides: Overrides = None) -> None:
    """Materialize what ended jobs have made."""
    from assets_pkg.automation.execute import run_assets
    from assets_pkg.build import build_definitions
    from assets_pkg.orchestration.instance import open_instance

    batches = _batches(load_profile(config, overrides or []))
    good = True
    with open_instance() as instance:
        for batch, state in batches.open():
            console.print(f"{batch.name}: {state}", highlight=False)
            good &= state.status not in ("failed", "cancelled")
            if state.status == "done":
                asked = Profile.model_validate_json(batch.profile)
                outcome = run_assets(build_definitions(asked), instance, batch.assets, tags=batch.tags)
                good &= outcome.succeeded
                if outcome.succeeded:
                    batches.mark_taken(batch)
                for failure in outcome.failures:
                    console.print(f"{failure.step}: {failure.message}", markup=False, highlight=False)
    raise typer.Exit(0 if good else EXIT_FAILED)


def _batches(profile: Profile) -> DetachedJobs:
    from assets_pkg.automation.detached_jobs import open_detached_jobs

    return open_detached_jobs(profile)
