"""The ``retune`` command as a user's process, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from assets_pkg.cli.running import QUIET_LIBRARIES
from resources.compute.job import JobFolder
from tests.command.forked import Command, CommandServer
from tests.conftest import write_corpus, write_profile
from tests.loopback import free_port

_SERVERS: list[CommandServer] = []
"""Those of this session, each started by the first command with its environment; in most sessions there is one."""


@dataclass
class Workplace:
    """A folder with documents and a profile; ``retune`` runs there. ``printed``: by the run that filled it."""

    home: Path
    port: int
    printed: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "RETUNE"))
        }
        return {**kept, **QUIET_LIBRARIES, "RETUNE_PROFILE": str(self.home / "profile.yaml"), **self.extra}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process that imports everything itself and has a hash seed of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "assets_pkg.cli", *arguments],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def retune_anew(self, *arguments: str) -> tuple[int, str]:
        """Exit code and everything printed, of such a process."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def start_forked(self, *arguments: str, kill_after: float | None = None) -> Command:
        """The command in a process forked from one that has imported torch, killed with SIGKILL after so many
        seconds. It has to be waited for before the next."""
        environment = self.environment
        server = next((each for each in _SERVERS if each.serves(environment)), None)
        if server is None:
            _SERVERS.append(server := CommandServer(environment))
        return server.start(arguments, self.home, environment, kill_after)

    def retune(self, *arguments: str, kill_after: float | None = None) -> tuple[int, str]:
        """Exit code and everything printed."""
        return self.start_forked(*arguments, kill_after=kill_after).wait()

    def job(self) -> psutil.Process | None:
        """The process of a job in this folder, if there is one."""
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "assets_pkg.job_worker" in line and str(self.home) in line[-1]:
                return process
        return None

    def await_job(self) -> psutil.Process:
        """The same, once there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (found := self.job()) is not None:
                return found
            time.sleep(0.1)
        raise AssertionError("no job was started")

    def await_ends_of_jobs(self) -> None:
        """Wait until every job in this folder has left its exit code."""
        deadline = time.monotonic() + 120
        folders = [JobFolder(script.parent) for script in (self.home / "output/.jobs").glob("*/job.sh")]
        assert folders
        while not all(folder.has_ended() for folder in folders):
            assert time.monotonic() < deadline, [folder.log.read_text() for folder in folders]
            time.sleep(0.1)

    def link(self, name: str) -> str:
        """The version that a recipe-named path points at."""
        return str((self.home / "output" / name).resolve().relative_to(self.home / "output"))


def make_workplace(home: Path, tiny_model: Path, documents: int = 40, root: str | None = None) -> Workplace:
    write_corpus(home / "documents", documents)
    port = free_port()
    write_profile(
        home / "profile.yaml",
        corpus=Path("documents"),
        model=tiny_model,
        root=root or home / "output",
        port=port,
    )
    return Workplace(home.resolve(), port)


def copy_workplace(home: Path, folder: Path) -> Workplace:
    """A project of its own with the documents, artifacts and history of the one at ``home``, but no server."""
    return Workplace(shutil.copytree(home, folder, symlinks=True).resolve(), 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Workplace]:
    """A project after an undisturbed run of the whole graph, with its server running.

    Versions are compared with those of this run, so it is a process of its own with its own hash seed.
    """
    workplace = make_workplace(tmp_path_factory.mktemp("done"), tiny_model, root="output")
    code, output = workplace.retune_anew("run", "--to", "reindex")
    assert code == 0, output
    workplace.printed = output
    yield workplace
    workplace.retune("deploy", "--stop")


@pytest.fixture
def fresh(tmp_path: Path, tiny_model: Path) -> Iterator[Workplace]:
    workplace = make_workplace(tmp_path / "project", tiny_model)
    yield workplace
    workplace.retune("deploy", "--stop")
