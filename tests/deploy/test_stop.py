"""A stopped server process may answer what it has accepted for as long as its own deadline, and no longer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from assets_pkg.deploy.backends.process import ServerState
from assets_pkg.deploy.configuration import drain_seconds
from assets_pkg.deploy.server_state import DEFAULT_DRAIN_SECONDS, DRAIN_MARGIN_SECONDS

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


def test_the_deadline_is_the_servers_own() -> None:
    assert drain_seconds({}) + DRAIN_MARGIN_SECONDS == DEFAULT_DRAIN_SECONDS
    assert drain_seconds({"NIM_SERVER_REQUEST_TIMEOUT_S": "300", "RETUNE_DRAIN_GRACE_S": "5"}) == 305
