"""POST /v1/embeddings, from the bytes of a request to those of its answer.

The endpoint is an ASGI layer outside the framework, `EmbeddingsMiddleware`, which also counts all answers and closes
connections while the server drains. The routes are in `assets_pkg.nim.api`.
"""

from __future__ import annotations

from fastapi import Response
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.schemas import embeddings_body
from assets_pkg.nim.service import EmbeddingService

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
        return await self._service.front.answer(request, self._embed)

    async def _embed(self, raw: bytes) -> Response:
        embedding = self._service.parser.parse(raw)
        vectors, tokens = await self._service.embed(embedding)
        body = await embeddings_body(embedding, vectors, sum(tokens))
        return Response(body, media_type="application/json")
