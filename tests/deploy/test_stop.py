"""A stopped server process may answer what it has accepted for as long as its own deadline, and no longer."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from assets_pkg.deploy.backends import process as processes
from assets_pkg.deploy.backends.process import ServerState, start_process
from assets_pkg.deploy.configuration import drain_seconds
from assets_pkg.deploy.deploy import stop_deployed
from assets_pkg.deploy.log_files import last_lines
from assets_pkg.deploy.server_state import DEFAULT_DRAIN_SECONDS, DRAIN_MARGIN_SECONDS, write_state

DRAINS = (
    "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); print(1, flush=True); {then}"
)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A program that goes on after SIGTERM, and the state of a server process that names it."""
    then, drain_s = request.param
    command = [sys.executable, "-c", DRAINS.format(then=then)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        started = psutil.Process(process.pid).create_time()
        yield process, ServerState(process.pid, started, "127.0.0.1", 1, "d", "", "", drain_s=drain_s)
        process.kill()


@pytest.mark.parametrize(
    "server", [("signal.sigwait([signal.SIGTERM]); print('answered', flush=True)", 60.0)], indirect=True
)
def test_what_was_accepted_is_answered(server: Any) -> None:
    process, state = server
    assert state.stop()
    assert (process.stdout.read(), state.alive()) == ("answered\n", False)


@pytest.mark.parametrize("server", [("[signal.pause() for _ in iter(int, 1)]", 0.3)], indirect=True)
def test_what_takes_longer_is_killed(server: Any) -> None:
    process, state = server
    assert state.stop()
    assert (process.stdout.read(), state.alive()) == ("", False)


@pytest.mark.parametrize("server", [("[signal.pause() for _ in iter(int, 1)]", 60.0)], indirect=True)
def test_the_waiting_is_told_and_the_second_interrupt_ends_it(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, state = server
    monkeypatch.setattr(processes, "NOTE_SECONDS", 0.05)
    write_state(tmp_path, asdict(state))
    said: list[str] = []

    def told(text: str) -> None:
        said.append(text)
        if len(said) in (2, 5):  # what Ctrl-C does
            signal.raise_signal(signal.SIGINT)

    assert stop_deployed(tmp_path, told) == state
    assert not state.alive()
    assert said[0].startswith(
        f"process {process.pid} still answers requests that it has accepted: 0 s, at most 60 s"
    )
    assert said[2].endswith("Ctrl-C again ends it at once")


def test_the_log_is_appended_to_and_followed_until_the_server_ends(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    for text in ("first", "second"):
        script = f"import sys; sys.stdin.read(); print('{text}', flush=True)"
        pid, _ = start_process([sys.executable, "-c", script], {}, log)
        psutil.wait_procs([psutil.Process(pid)], 30)
    assert [line for line in log.read_text().splitlines() if not line.startswith("----")] == [
        "first",
        "second",
    ]
    assert last_lines(log, 10) == ["second"]
    writes = "import os, sys; print('third', flush=True); os.rename(sys.argv[1], sys.argv[1] + '.1'); "
    writes += "open(sys.argv[1], 'w').write('fourth\\n')"
    pid, started = start_process([sys.executable, "-c", writes, str(log)], {}, log)
    state = ServerState(pid, started, "127.0.0.1", 1, "d", "", str(log))
    assert [*state.follow_log(10)][-2:] == ["third", "fourth"]


def test_the_deadline_is_the_servers_own() -> None:
    assert drain_seconds({}) + DRAIN_MARGIN_SECONDS == DEFAULT_DRAIN_SECONDS
    assert drain_seconds({"NIM_SERVER_REQUEST_TIMEOUT_S": "300", "RETUNE_DRAIN_GRACE_S": "5"}) == 305
