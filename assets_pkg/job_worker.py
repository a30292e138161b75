"""What runs in a job: ``python -m assets_pkg.job_worker FOLDER`` makes the assets that the folder's work names.

The same assets as anywhere, in an instance of their own that knows of the others what the submitter knew. What is
built goes to the artifact store under the key that the submitter looks for; log lines, progress and metadata go
back through Dagster Pipes.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import PipesContext, open_dagster_pipes

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.asset_context import data_version
from assets_pkg.orchestration.pipes_client import Work
from assets_pkg.orchestration.run_observer import set_run_observer
from resources.compute.distributed_embedding import help_with
from resources.compute.job import TASK, JobSpec
from resources.configurable import ComputeResource

PLAIN = {
    dg.TextMetadataValue: "text",
    dg.IntMetadataValue: "int",
    dg.FloatMetadataValue: "float",
    dg.BoolMetadataValue: "bool",
}
LOGGER = "pipes"
PROGRESS_EVERY_SECONDS = 0.5


def run_job(folder: Path) -> bool:
    """Make the assets of the job in ``folder``; returns whether all went well."""
    work = Work.load((folder / "work.json").read_text("utf-8"))
    profile = Profile.model_validate_json(work.profile)
    with open_dagster_pipes() as pipes, dg.DagsterInstance.ephemeral() as instance:
        for text in work.recorded:
            instance.report_runless_asset_event(dg.deserialize_value(text, dg.AssetMaterialization))
        set_run_observer(_PipesObserver(pipes))
        defs = dg.Definitions.merge(
            build_definitions(profile, {"compute": _compute(work, folder)}),
            dg.Definitions(loggers={LOGGER: _logger(pipes)}),
        )
        started = time.monotonic()
        outcome = run_assets(defs, instance, work.assets, loggers={LOGGER: {}})
        if outcome.succeeded:
            ran = {"host": platform.node(), "seconds": round(time.monotonic() - started, 1)}
            for asset in work.assets:
                _report(pipes, instance, asset, ran)
        for failure in outcome.failures:
            sys.stderr.write(f"{failure.trace}\n{failure.step}: {failure.message}\n")
            pipes.report_custom_message({"failure": failure.message})
        return outcome.succeeded


def help_job(folder: Path, task: int) -> None:
    """What the other tasks of a job array do: embed a part of what the first one embeds."""
    job = JobSpec("", folder, Path.cwd(), ())
    help_with(job.share, task, over=lambda: job.exit_code.exists() and job.exit_code.stat().st_size > 0)


def _compute(work: Work, folder: Path) -> ComputeResource:
    share = JobSpec("", folder, Path.cwd(), ()).share
    return ComputeResource(inside_job=True, spread=work.spread, share=str(share))


def _report(pipes: PipesContext, instance: dg.DagsterInstance, asset: str, ran: Mapping[str, Any]) -> None:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    if event is None or event.asset_materialization is None:
        return
    made = event.asset_materialization
    told = {
        name: {"raw_value": value.value, "type": PLAIN[type(value)]}
        for name, value in made.metadata.items()
        if type(value) in PLAIN
    }
    pipes.report_asset_materialization(
        metadata={**told, **{f"job_{name}": value for name, value in ran.items()}},
        data_version=data_version(made),
        asset_key=asset,
    )


class _PipesObserver:
    """Progress and notes as messages of the pipe, not more often than somebody can read."""

    def __init__(self, pipes: PipesContext):
        self._pipes = pipes
        self._last = 0.0

    def started(self, step: str) -> None: ...

    def finished(self, step: str) -> None: ...

    def note(self, text: str) -> None:
        self._pipes.report_custom_message({"note": text})

    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= PROGRESS_EVERY_SECONDS:
            self._last = now
            message = {"step": step, "done": done, "total": total, "unit": unit, "figures": figures}
            self._pipes.report_custom_message(message)


def _logger(pipes: PipesContext) -> dg.LoggerDefinition:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told = getattr(record, "dagster_meta", {})
            if not told.get("dagster_event"):
                line = told.get("orig_message", record.getMessage())
                pipes.log.log(record.levelno, line)
                sys.stderr.write(f"{line}\n")

    @dg.logger
    def to_pipes(_: dg.InitLoggerContext) -> logging.Logger:
        """The steps' log lines, to the submitter's run and the job's own log."""
        made = logging.Logger("retune.job", logging.INFO)
        made.addHandler(Handler())
        return made

    return to_pipes


if __name__ == "__main__":
    task = int(os.environ.get(TASK, "0"))
    if task:
        help_job(Path(sys.argv[1]), task)
    else:
        sys.exit(0 if run_job(Path(sys.argv[1])) else 1)
