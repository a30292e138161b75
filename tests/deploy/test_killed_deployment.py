"""Servers that a killed deployment left are stopped by the next one, and by ``retune deploy --stop``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from assets_pkg.deploy.backends.process import ServerState, start_process, stop_unrecorded
from assets_pkg.deploy.deploy import stop_deployed
from assets_pkg.deploy.server_state import write_state

WAITS = "import time; time.sleep(600)"
STARTS_ANOTHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS!r}])"


class Servers:
    """Programs that stand for server processes: they only wait."""

    def __init__(self) -> None:
        self.processes: list[psutil.Process] = []

    def start(self, folder: Path, program: str = WAITS) -> psutil.Process:
        folder.mkdir(exist_ok=True)
        pid, _ = start_process([sys.executable, "-c", program], {}, folder / "server.log")
        process = psutil.Process(pid)
        self.processes.append(process)
        return process


@pytest.fixture
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    for process in started.processes:
        if process.is_running():
            for each in [*process.children(recursive=True), process]:
                each.kill()
            process.wait(10)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def state_of(process: psutil.Process) -> ServerState:
    return ServerState(process.pid, process.create_time(), "127.0.0.1", 1, "aa", "", "")


def test_only_servers_that_the_state_does_not_name_are_stopped(servers: Servers, tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "other"
    trial, replaced = servers.start(folder), servers.start(folder)
    recorded, elsewhere = servers.start(folder, STARTS_ANOTHER), servers.start(other)
    while not (helpers := recorded.children()):
        assert recorded.is_running()
    assert set(stop_unrecorded(folder, state_of(recorded))) == {trial.pid, replaced.pid}
    assert is_gone(trial)
    assert is_gone(replaced)
    assert not any(is_gone(each) for each in [recorded, elsewhere, *helpers])
    assert stop_unrecorded(folder, state_of(recorded)) == []


def test_stopping_stops_all_of_the_project(servers: Servers, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    left, recorded = servers.start(folder), servers.start(folder)
    write_state(folder, asdict(state_of(recorded)))
    assert stop_deployed(folder) == state_of(recorded)
    assert is_gone(left)
    assert is_gone(recorded)
    assert stop_deployed(folder) is None
    assert stop_deployed(tmp_path / "never-deployed") is None
