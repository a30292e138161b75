"""POST /v1/embeddings, from the bytes of a request to those of its answer.

The endpoint is an ASGI layer outside the framework, `EmbeddingsMiddleware`, which also counts all answers and closes
connections while the server drains. The routes are in `assets_pkg.nim.api`.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import Response
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.errors import (
    ApiError,
    BodyTooLargeError,
    SlowRequestError,
    UnsupportedMediaError,
    failure_response,
    response_to,
)
from assets_pkg.nim.schemas import EmbeddingRequest, embeddings_body
from assets_pkg.nim.service import EmbeddingService

log = logging.getLogger(__name__)

EMBEDDINGS_PATH = "/v1/embeddings"

COUNTED_PATHS = frozenset(
    [
        EMBEDDINGS_PATH,
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license", "metrics")),
        "/v1/health/live",
        "/v1/health/ready",
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""

ON_DISCONNECT = "retune.on_disconnect"
"""Key in the scope of a request in progress: the function that the connection calls when it is lost."""

CLIENT_CLOSED_REQUEST = 499
"""Logged and counted for a client that disconnected; it is never received."""

CLOSE = {"Connection": "close"}
"""Sent when a body was not read to its end, so that the rest of it is not parsed as the next request."""


class EmbeddingsMiddleware:
    """Answers requests for embeddings itself and passes all others to the application.

    The framework's layers would take as long for each request as all of its own handling. The application has the
    same endpoint as a route, for its description in OpenAPI and the refusal of other methods.
    """

    def __init__(self, app: ASGIApp, endpoint: EmbeddingsEndpoint, service: EmbeddingService) -> None:
        self._app = app
        self._endpoint = endpoint
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        label = path if path in COUNTED_PATHS else "other"

        async def counted_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.metrics.requests.labels(label, str(message["status"])).inc()
                if self._service.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if path == EMBEDDINGS_PATH and scope["method"] == "POST":
            response = await self._endpoint.answer(Request(scope, receive))
            await response(scope, receive, counted_send)
        else:
            await self._app(scope, receive, counted_send)


class EmbeddingsEndpoint:
    """Answers requests with the service's embeddings or with an error in NIM's format; raises nothing."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except ApiError as error:
            return response_to(error)
        except Exception:
            log.exception("a request failed")
            return failure_response()

    async def _answer(self, request: Request) -> Response:
        service = self._service
        service.check_key(request.headers.get("authorization", ""))
        check_media(request)
        settings = service.settings
        with service.admitted(_announced_bytes(request, settings.body_limit_bytes)):
            raw = await read_body(request, settings.body_limit_bytes, settings.read_timeout_s)
            return await self._embed(request, service.parser.parse(raw))

    async def _embed(self, request: Request, embedding: EmbeddingRequest) -> Response:
        """The answer. If the client disconnects, its texts are taken out of the queue at once."""
        guard = _DisconnectGuard(request)
        try:
            vectors, tokens = await self._service.embed(embedding)
            body = await embeddings_body(embedding, vectors, sum(tokens))
            return Response(body, media_type="application/json")
        except asyncio.CancelledError:
            if not guard.disconnected:
                raise
            self._service.metrics.abandoned.inc()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            guard.close()


class _DisconnectGuard:
    """Cancels the task that created it as soon as the request's client has disconnected.

    The connection calls the function in the request's scope. ASGI's own way, a task that waits for the message
    ``http.disconnect``, would take a tenth of a request's time outside the model.
    """

    def __init__(self, request: Request) -> None:
        self.disconnected = False
        self._scope = request.scope
        self._task = asyncio.current_task()
        self._scope[ON_DISCONNECT] = self._cancel

    def _cancel(self) -> None:
        self.disconnected = True
        assert self._task is not None
        self._task.cancel()

    def close(self) -> None:
        del self._scope[ON_DISCONNECT]
        if self.disconnected:
            assert self._task is not None
            self._task.uncancel()


def check_media(request: Request) -> None:
    """Raises `UnsupportedMediaError` unless the body is plain JSON, or its type is not stated."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMediaError("The body must be application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("The body must not be compressed.")


def _announced_bytes(request: Request, limit: int) -> int:
    """The size of the body by its header, or ``limit`` where there is none."""
    announced = request.headers.get("content-length")
    if announced is None:
        return limit
    if int(announced) > limit:
        raise _too_large(limit)
    return int(announced)


async def read_body(request: Request, limit: int, timeout_s: float | None = None) -> bytes:
    """A request's body.

    Raises:
        BodyTooLargeError: it is larger than ``limit`` bytes; the rest is not read.
        SlowRequestError: it did not arrive within ``timeout_s`` seconds.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError as error:
        raise SlowRequestError("The body did not arrive in time.", CLOSE) from error
    return b"".join(parts)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {limit} bytes.", CLOSE)
