"""POST /v1/embeddings, from the bytes of a request to those of its answer, and the outermost ASGI layer."""

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

ON_DEPARTURE = "retune.on_departure"
"""In a request's scope, while it is answered: what the connection calls when it is lost."""

CLIENT_LEFT = 499
"""Logged and counted for a client that left; nobody receives it."""


class EmbeddingsEndpoint:
    """Answers requests with the service's embeddings, or with NIM's errors; nothing is raised."""

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
        _check_media(request)
        with service.admitted(_announced_bytes(request, service.settings.body_limit_bytes)):
            asked = service.parser.parse(await _read_body(request, service))
            return await self._unless_gone(request, asked)

    async def _unless_gone(self, request: Request, asked: EmbeddingRequest) -> Response:
        """The answer; or, as soon as the client leaves, nothing, and its texts leave the queue."""
        watch = _DepartureWatch(request)
        try:
            vectors, tokens = await self._service.embed(asked)
            body = await embeddings_body(asked, vectors, sum(tokens))
            return Response(body, media_type="application/json")
        except asyncio.CancelledError:
            if not watch.has_left:
                raise
            self._service.metrics.abandoned.inc()
            return Response(status_code=CLIENT_LEFT)
        finally:
            watch.end()


class _DepartureWatch:
    """Cancels the task that made it as soon as the request's client has left.

    The connection calls what it finds in the request's scope. ASGI's own way, a task that waits for the client's
    departure, would be a tenth of what a request costs beside the model.
    """

    def __init__(self, request: Request) -> None:
        self.has_left = False
        self._scope = request.scope
        self._work = asyncio.current_task()
        self._scope[ON_DEPARTURE] = self._leave

    def _leave(self) -> None:
        self.has_left = True
        assert self._work is not None
        self._work.cancel()

    def end(self) -> None:
        del self._scope[ON_DEPARTURE]
        if self.has_left:
            assert self._work is not None
            self._work.uncancel()


def _check_media(request: Request) -> None:
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMediaError("The body must be application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("The body must not be compressed.")


def _announced_bytes(request: Request, limit: int) -> int:
    """The size of the body: as announced, or the most it may be where nothing is announced."""
    announced = request.headers.get("content-length")
    if announced is None:
        return limit
    if int(announced) > limit:
        raise _too_large(limit)
    return int(announced)


async def _read_body(request: Request, service: EmbeddingService) -> bytes:
    limit = service.settings.body_limit_bytes
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(service.settings.read_timeout_s):
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


CLOSE = {"Connection": "close"}
"""Said when a body was not read to its end, so that the rest of it is not taken for the next request."""


ENDPOINTS = frozenset(
    [
        EMBEDDINGS_PATH,
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license", "metrics")),
        "/v1/health/live",
        "/v1/health/ready",
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""


class EmbeddingsMiddleware:
    """An ASGI application around another.

    Embeddings are answered here: the framework's layers cost as much for each request as all of its own
    handling. The application has the same endpoint as a route, which describes it and refuses other methods.
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
        label = path if path in ENDPOINTS else "other"

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
