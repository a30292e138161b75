"""A sensor's tick in a process of its own, which kills itself at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import dagster as dg
from dagster._core.instance import InstanceRef

from tests.graph.harness import Project

KILLED = -signal.SIGKILL
HEAVY = ["dagster", "torch", "sentence_transformers", "pyarrow.parquet", "assets_pkg.build", __name__]
"""Loaded once, by the process that the others are forked from. Not lancedb: its threads would not be there."""

TOUCHES = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.listdir"})


class Ticker:
    """Ticks sensors of a project in child processes."""

    def __init__(self, project: Project):
        self._project = project
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(HEAVY)

    def tick(self, sensor: str, die_at: int) -> tuple[int, int]:
        """One tick in a child that is killed with SIGKILL when it touches a file of the project for the ``die_at``-th
        time (0: never). Returns its exit code and how often it did so."""
        touched = self._processes.Value("i", 0)
        arguments = (self._project.profile_path, self._project.instance.get_ref(), sensor, die_at, touched)
        child = self._processes.Process(target=_tick, args=arguments)
        child.start()
        child.join()
        assert child.exitcode is not None
        return child.exitcode, touched.value


def _tick(profile: Path, instance: InstanceRef, sensor: str, die_at: int, touched: object) -> None:
    os.chdir(profile.parent)
    count = 0

    def touch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in TOUCHES and _is_in(profile.parent, arguments):
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    with dg.DagsterInstance.from_ref(instance) as opened:
        project = Project(profile, opened)
        _ = project.defs
        sys.addaudithook(touch)
        project.tick(sensor)
    touched.value = count  # type: ignore[attr-defined]


def _is_in(folder: Path, arguments: tuple[object, ...]) -> bool:
    """Whether what an event is about lies in ``folder``, in which the process works: what Python imports does not."""
    path = arguments[0]
    return isinstance(path, str | os.PathLike) and (folder / path).is_relative_to(folder)
