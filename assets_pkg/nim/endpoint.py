"""POST /v1/embeddings, from the bytes of a request to those of its answer.

The endpoint is an ASGI layer outside the framework, `EmbeddingsMiddleware`, which also counts and logs all answers,
gives each its id, and closes connections while the server drains. The routes are in `assets_pkg.nim.api`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping

from fastapi import Response
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.dialects import DIALECTS, Dialect
from assets_pkg.nim.front import CLIENT_CLOSED_REQUEST
from assets_pkg.nim.observability import Access
from assets_pkg.nim.schemas import embeddings_body, parse_json, refuse_token_ids
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.tracing import COUNTS, STATUS

access = logging.getLogger("assets_pkg.nim.access")

EMBEDDINGS_PATH = "/v1/embeddings"
PROBES = frozenset(["/v1/health/live", "/v1/health/ready", "/v1/metrics", "/health", "/metrics"])
"""Paths that are asked every few seconds; logged only at the level DEBUG, unless they fail."""

COUNTED_PATHS = frozenset(
    [
        EMBEDDINGS_PATH,
        *PROBES,
        *DIALECTS,
        "/info",
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license")),
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""

REQUEST_ID = b"x-request-id"
VALID_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
NO_COUNTS: Mapping[str, int] = {}
MAX_PATH_LOGGED = 200


class EmbeddingsMiddleware:
    """Answers requests for embeddings itself and passes all others to the application.

    The framework's layers would take as long for each request as all of its own handling. The application has the
    same endpoint as a route, for its description in OpenAPI and the refusal of other methods.
    """

    def __init__(self, app: ASGIApp, endpoint: EmbeddingsEndpoint, service: EmbeddingService) -> None:
        self._app = app
        self._endpoint = endpoint
        self._service = service
        self._logs = service.settings.access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path, identity = scope["path"], request_id(scope)
        scope[STATUS] = CLIENT_CLOSED_REQUEST

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope[STATUS] = status = message["status"]
                label = path if path in COUNTED_PATHS else "other"
                self._service.metrics.requests.labels(label, str(status)).inc()
                headers = [*message.get("headers", ()), (REQUEST_ID, identity)]
                if self._service.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            if path == EMBEDDINGS_PATH and scope["method"] == "POST":
                with self._service.tracing.request(scope, identity.decode()):
                    response = await self._endpoint.answer(Request(scope, receive))
                    await response(scope, receive, counted_send)
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


class EmbeddingsEndpoint:
    """Answers requests with the service's embeddings or with an error in NIM's format; raises nothing."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        return await self._service.front.answer(request, lambda raw: self._embed(request.scope, raw))

    async def answer_in(self, dialect: Dialect, request: Request) -> Response:
        """The same for another server's client."""
        return await self._service.front.answer(request, lambda raw: self._embed(request.scope, raw, dialect))

    async def _embed(self, scope: Scope, raw: bytes, dialect: Dialect | None = None) -> Response:
        document, write = parse_json(raw), embeddings_body
        if dialect is not None:
            refuse_token_ids(document)
            document, write = dialect.read(document)
        embedding = self._service.parser.check(document)
        vectors, tokens = await self._service.embed(embedding)
        total = sum(tokens)
        scope[COUNTS] = {"texts": len(tokens), "tokens": total}
        return Response(await write(embedding, vectors, total), media_type="application/json")
