"""Running assets in this process, as a run that the UI's history shows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets_pkg.automation.jobs import BENCHMARK_JOB, MAIN_JOB
from assets_pkg.config.stages import STAGE_OF, STAGES
from assets_pkg.orchestration.history import planned_tag
from assets_pkg.orchestration.instance import PROCESS_TAG, end_dead_runs, process_tag
from assets_pkg.orchestration.metadata import in_words
from assets_pkg.orchestration.names import UNPREFIXED
from assets_pkg.orchestration.run_origin import as_runs_of_the_code_location

INTERRUPTS = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
CHECK_FAILED = "DagsterAssetCheckFailedError"
NO_CONSOLE = {"console": {"config": {"log_level": "CRITICAL"}}}


@dataclass(frozen=True)
class Failure:
    """A failed step or check: the error's message and traceback. ``trace`` is empty for errors that Retune foresees."""

    step: str
    message: str
    trace: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``interrupted``: the step during which a signal (Ctrl-C) ended it, or empty."""

    run_id: str
    succeeded: bool
    failures: tuple[Failure, ...]
    interrupted: str


def run_assets(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    config: Mapping[str, Any] | None = None,
    loggers: Mapping[str, Any] = NO_CONSOLE,
    tags: Mapping[str, str] | None = None,
    planned_with: Mapping[str, int] | None = None,
) -> Outcome:
    """Materialize ``assets`` of a graph without a key prefix, with their checks. Runs that were killed
    are ended first: theirs may be the accelerator.

    Args:
        config: run config of ops, by asset name.
        loggers: run config of loggers, by name.
        tags: of the run, beside that of this process.
        planned_with: the events that the plan was made of, which the run then works with
            (:class:`~assets_pkg.orchestration.plan.Plan`); without it, with the latest from before it began.
    """
    end_dead_runs(instance)
    main = all(STAGE_OF[asset] in STAGES for asset in assets)
    job = defs.resolve_job_def(MAIN_JOB if main else BENCHMARK_JOB)
    run_id = str(uuid.uuid4())
    planned = {} if planned_with is None else planned_tag(run_id, planned_with)
    with as_runs_of_the_code_location(instance, job.name):
        result = job.execute_in_process(
            run_id=run_id,
            run_config={
                "loggers": loggers,
                "ops": {name: {"config": value} for name, value in (config or {}).items()},
            },
            instance=instance,
            asset_selection=[UNPREFIXED.key(name) for name in assets],
            raise_on_error=False,
            tags={**(tags or {}), **planned, PROCESS_TAG: process_tag()},
        )
    return Outcome(result.run_id, result.success, tuple(_failures(result)), _interrupted_step(result))


def _interrupted_step(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None:
                if error.cls_name in INTERRUPTS:
                    return event.step_key or ""
                error = error.cause
    return ""


def _failures(result: dg.ExecuteInProcessResult) -> list[Failure]:
    failed: list[Failure] = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            user = data.user_failure_data
            error = data.error
            if user is not None and user.description:
                failed.append(Failure(event.step_key or "", user.description, ""))
            elif error is not None and error.cls_name != CHECK_FAILED:  # the checks themselves follow below
                cause = error.cause or error
                failed.append(Failure(event.step_key or "", cause.message.strip(), cause.to_string()))
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            figures = in_words(
                {
                    name: value.value
                    for name, value in check.metadata.items()
                    if not isinstance(value, dg.MarkdownMetadataValue)  # tables and pictures, for the UI
                }
            )
            said = check.description or figures
            failed.append(
                Failure(f"check {check.check_name} of {check.asset_key.to_user_string()}", said, "")
            )
    return failed
