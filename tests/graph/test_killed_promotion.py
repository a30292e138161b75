"""A promotion by hand that is killed after it has moved the pointer: the next command follows the history again.

Killed at any other of its steps, pointer and history agree.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.instance import InstanceRef

from assets_pkg.automation.execute import run_assets
from assets_pkg.evaluation.promotion import restore_pointer
from assets_pkg.orchestration.instance import GPU_POOL, RUNNING
from storage.artifact_store import ArtifactStore
from storage.paths import PROMOTED_MODEL
from tests.graph.harness import Project
from tests.graph.killed import HEAVY, KILLED


def _promote(profile: Path, history: InstanceRef, version: str) -> None:
    os.chdir(profile.parent)
    moved = False

    def change(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal moved
        if moved and event == "sqlite3.connect":
            os.kill(os.getpid(), signal.SIGKILL)
        moved |= event == "os.rename" and str(arguments[1]).endswith(f"/{PROMOTED_MODEL}")

    with dg.DagsterInstance.from_ref(history) as instance:
        project = Project(profile, instance)
        _ = project.defs
        sys.addaudithook(change)
        project.promote(version)


@pytest.mark.slow
def test_a_pointer_that_a_killed_promotion_moved_follows_the_history_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store = ArtifactStore(Path(project.profile.artifact_root))
    first = project.version("promoted_model")
    models = {project.version("base_model"), project.version("checkpoint")}
    (other,) = models - {first}
    project.instance.event_log_storage.set_concurrency_slots(GPU_POOL, 1)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([*HEAVY, __name__])
    arguments = (project.profile_path, project.instance.get_ref(), other)
    child = processes.Process(target=_promote, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == KILLED
    assert store.resolve(PROMOTED_MODEL).name == other  # type: ignore[union-attr]
    assert project.version("promoted_model") == first

    restore_pointer(project.instance, store)
    assert store.resolve(PROMOTED_MODEL).name == other, "its run may still be going on"  # type: ignore[union-attr]
    choice = {
        "promoted_model": {"version": "none", "because": "a run that fails, but does not wait for the killed"}
    }
    assert not run_assets(project.defs, project.instance, ["promoted_model"], choice).succeeded
    assert not project.instance.get_runs(RUNNING)
    restore_pointer(project.instance, store)
    assert store.resolve(PROMOTED_MODEL).name == first  # type: ignore[union-attr]
