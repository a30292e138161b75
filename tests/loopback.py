"""Ports and HTTP servers of the standard library on loopback, for as long as a test needs them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from itertools import cycle
from typing import TypeVar

Server = TypeVar("Server", bound=HTTPServer)

PORTS_EACH = 1000
_FIRST = 20_000 + PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw11").removeprefix("gw")) % 12)
_PORTS = cycle(range(_FIRST, _FIRST + PORTS_EACH))


def free_port() -> int:
    """A port that nothing listens on, of this process's own thousand: below those that the system gives to clients and
    to servers that ask for any, so that nobody takes it before the test does."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """``server``, answering in a thread until the end of the block."""
    # shutdown() waits for the next poll: half a second by default.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
