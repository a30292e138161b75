"""What every request gets, whatever answers it: an id, a line in the access log, a span, a count."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.front import CLIENT_CLOSED_REQUEST
from assets_pkg.nim.observability import Access
from assets_pkg.nim.tracing import COUNTS, STATUS, Tracing

access = logging.getLogger("assets_pkg.nim.access")

PROBES = frozenset(["/v1/health/live", "/v1/health/ready", "/v1/metrics", "/health", "/metrics"])
"""Paths that are asked every few seconds; logged only at the level DEBUG, unless they fail."""

REQUEST_ID = b"x-request-id"
VALID_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
NO_COUNTS: Mapping[str, int] = {}
MAX_PATH_LOGGED = 200


class AccessMiddleware:
    """Logs and traces the requests that an application answers, and gives each its id.

    Args:
        log: whether the access log is written.
        traced: the paths whose POST requests get a span.
        answered: called with the path and the status of each answer.
        draining: whether connections are to be closed after their answers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tracing: Tracing,
        log: bool,
        traced: Collection[str],
        answered: Callable[[str, int], None] = lambda path, status: None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._tracing, self._traced = tracing, frozenset(traced)
        self._logs = log
        self._answered, self._draining = answered, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path, identity = scope["path"], request_id(scope)
        scope[STATUS] = CLIENT_CLOSED_REQUEST

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope[STATUS] = message["status"]
                self._answered(path, message["status"])
                headers = [*message.get("headers", ()), (REQUEST_ID, identity)]
                if self._draining():
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            if path in self._traced and scope["method"] == "POST":
                with self._tracing.request(scope, identity.decode()):
                    await self._app(scope, receive, counted_send)
            else:
                await self._app(scope, receive, counted_send)
        finally:
            if self._logs:
                _log(scope, time.perf_counter() - started, identity)


def request_id(scope: Scope) -> bytes:
    """The id that the client gave its request in ``X-Request-Id``, or a new one where that is missing or no id."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID:
            return usable_id(value)
    return usable_id(b"")


def usable_id(given: bytes) -> bytes:
    return given if VALID_ID.fullmatch(given) else os.urandom(16).hex().encode()


def _log(scope: Scope, seconds: float, identity: bytes) -> None:
    status = scope[STATUS]
    level = logging.DEBUG if scope["path"] in PROBES and status < 400 else logging.INFO
    if not access.isEnabledFor(level):
        return
    # The path as it was sent: decoded it could hold the end of a line.
    path = scope.get("raw_path", b"")[:MAX_PATH_LOGGED].decode("ascii", "backslashreplace")
    client = scope["client"][0] if scope["client"] else "-"
    counts = scope.get(COUNTS, NO_COUNTS)
    line = Access(client, f"{scope['method']} {path}", status, seconds, identity.decode(), counts)
    # As access.log does, without looking for the line of code that calls it.
    access.handle(logging.LogRecord(access.name, level, "", 0, line, None, None))
