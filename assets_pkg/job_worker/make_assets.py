"""Making the assets that the request in a job's folder names.

It materializes the same assets as any run, in an ephemeral instance with the materializations that the submitter knew.
What is built goes to the artifact store under the key that the submitter looks for; log lines, progress and metadata
go back through Dagster Pipes.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_pipes import PipesContext, open_dagster_pipes

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.asset_context import forced_tag
from assets_pkg.orchestration.history import data_version, latest
from assets_pkg.orchestration.names import Names
from assets_pkg.orchestration.pipes_client import JobRequest
from assets_pkg.orchestration.run_observer import set_run_observer
from resources.compute.job import JobFolder
from resources.compute.stage_targets import InsideJob, StageTargets
from resources.compute.targets import ComputeTarget
from resources.configurable import ComputeResource

PLAIN = {
    dg.TextMetadataValue: "text",
    dg.IntMetadataValue: "int",
    dg.FloatMetadataValue: "float",
    dg.BoolMetadataValue: "bool",
}
LOGGER = "pipes"
PROGRESS_EVERY_SECONDS = 0.5


def run_job(folder: JobFolder) -> bool:
    """Make the assets of the job in ``folder``; returns whether the run succeeded."""
    request = JobRequest.load(folder.request.read_text("utf-8"))
    profile = Profile.model_validate_json(request.profile)
    with open_dagster_pipes() as pipes, dg.DagsterInstance.ephemeral() as instance:
        for text in request.recorded:
            instance.report_runless_asset_event(dg.deserialize_value(text, dg.AssetMaterialization))
        set_run_observer(_PipesObserver(pipes))
        defs = dg.Definitions.merge(
            build_definitions(profile, resource_overrides={"compute": _compute(request, folder)}),
            dg.Definitions(loggers={LOGGER: _logger(pipes)}),
        )
        started = time.monotonic()
        tags = forced_tag(request.forced)
        outcome = run_assets(defs, instance, request.assets, loggers={LOGGER: {}}, tags=tags)
        if outcome.succeeded:
            ran = {"host": platform.node(), "seconds": round(time.monotonic() - started, 1)}
            for asset in request.assets:
                _report(pipes, instance, asset, ran, Names.under(request.key_prefix))
        for failure in outcome.failures:
            sys.stderr.write(f"{failure.trace}\n{failure.step}: {failure.message}\n")
            pipes.report_custom_message({"failure": failure.message})
        return outcome.succeeded


def _compute(request: JobRequest, folder: JobFolder) -> ComputeResource:
    workers = ComputeTarget.model_validate_json(request.workers) if request.workers else None
    return ComputeResource(profile_targets=StageTargets(inside_job=InsideJob(workers, folder.assignment)))


def _report(
    pipes: PipesContext, instance: dg.DagsterInstance, asset: str, ran: Mapping[str, Any], names: Names
) -> None:
    made = latest(instance, asset)
    if made is None:
        return
    plain = {
        name: {"raw_value": value.value, "type": PLAIN[type(value)]}
        for name, value in made.metadata.items()
        if type(value) in PLAIN
    }
    pipes.report_asset_materialization(
        metadata={**plain, **{f"job_{name}": value for name, value in ran.items()}},
        data_version=data_version(made),
        asset_key=names.key(asset).to_escaped_user_string(),
    )


class _PipesObserver:
    """Reports progress and notes as Pipes messages, progress at most every :data:`PROGRESS_EVERY_SECONDS`."""

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
            meta = getattr(record, "dagster_meta", {})
            if not meta.get("dagster_event"):
                line = meta.get("orig_message", record.getMessage())
                pipes.log.log(record.levelno, line)
                sys.stderr.write(f"{line}\n")

    @dg.logger
    def to_pipes(_: dg.InitLoggerContext) -> logging.Logger:
        """Sends the steps' log lines to the submitter's run and to the job's own log."""
        made = logging.Logger("retune.job", logging.INFO)
        made.addHandler(Handler())
        return made

    return to_pipes
