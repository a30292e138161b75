"""The outermost layer: the short way to the embeddings, counting, and sending clients elsewhere in a drain."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.embeddings import EMBEDDINGS_PATH, EmbeddingsEndpoint
from assets_pkg.nim.service import EmbeddingService

ENDPOINTS = frozenset(
    [
        EMBEDDINGS_PATH,
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license", "metrics")),
        "/v1/health/live",
        "/v1/health/ready",
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""


class FrontDoor:
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
