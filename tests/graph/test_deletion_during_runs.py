"""Nothing is deleted while a run is going on, which may use any version that it found when it began."""

import threading
from pathlib import Path

import dagster as dg
import psutil
import pytest
from filelock import FileLock, Timeout

from assets_pkg.cli.gc import gc
from assets_pkg.orchestration import run_observer
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.instance import PROCESS_TAG, InstanceError, process_tag, require_no_run
from resources.configurable import ArtifactStoreResource
from storage.artifact_store import DELETION_LOCK, ArtifactStore


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


class Waiting(run_observer._NoObserver):
    """Notices that a step waits."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def note(self, text: str) -> None:
        if "waits until old versions are deleted" in text:
            self.seen.set()


def test_a_step_that_starts_while_versions_are_deleted_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer, begun = Waiting(), threading.Event()
    monkeypatch.setattr(run_observer, "_observer", observer)

    @dg.asset
    def notes(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> None:
        with asset_context(context, store):
            begun.set()

    resources = {"store": ArtifactStoreResource(root=str(tmp_path))}
    run = threading.Thread(target=dg.materialize, args=([notes],), kwargs={"resources": resources})
    with ArtifactStore(tmp_path).deletion():
        run.start()
        assert observer.seen.wait(60)
        assert not begun.is_set()
    run.join()
    assert begun.is_set()


def test_whether_a_run_is_going_on_is_asked_once_new_steps_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def ask(instance: dg.DagsterInstance) -> None:
        try:
            FileLock(tmp_path / "output" / DELETION_LOCK).acquire(blocking=False)
        except Timeout:
            asked.append(True)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "history"))
    monkeypatch.setattr("assets_pkg.orchestration.instance.require_no_run", ask)
    (tmp_path / "output").mkdir()
    gc(config="laptop", overrides=[f"artifact_root={tmp_path / 'output'}"])
    assert asked == [True]
