"""Nothing is deleted while a run is going on, which may use any version that it found when it began."""

from __future__ import annotations

import dagster as dg
import psutil
import pytest

from assets_pkg.orchestration.instance import PROCESS_TAG, InstanceError, process_tag, require_no_run


@dg.job
def nothing() -> None:
    """A job without steps."""


def add_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    return instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED).run_id


@pytest.mark.parametrize("tagged", [True, False])
def test_a_run_that_is_going_on_is_named(tagged: bool) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        require_no_run(instance)
        run_id = add_run(instance, {PROCESS_TAG: process_tag()} if tagged else {})
        with pytest.raises(InstanceError, match=f"run {run_id[:8]} is going on .* nothing was deleted"):
            require_no_run(instance)


def test_a_run_that_was_killed_is_no_hindrance() -> None:
    free = next(pid for pid in range(100_000, 4_000_000) if not psutil.pid_exists(pid))
    host, _, started = process_tag().rsplit(":", 2)
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = add_run(instance, {PROCESS_TAG: f"{host}:{free}:{started}"})
        require_no_run(instance)
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE
