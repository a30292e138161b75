"""POST /v1/embeddings, from the bytes of a request to those of its answer.

The endpoint is an ASGI layer outside the framework, `EmbeddingsMiddleware`. The routes are in `assets_pkg.nim.api`.
"""

from __future__ import annotations

from fastapi import Response
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from assets_pkg.nim.dialects import Dialect
from assets_pkg.nim.schemas import embeddings_body, parse_json, refuse_token_ids
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.tracing import COUNTS

EMBEDDINGS_PATH = "/v1/embeddings"


class EmbeddingsMiddleware:
    """Answers requests for embeddings itself and passes all others to the application.

    The framework's layers would take as long for each request as all of its own handling. The application has the
    same endpoint as a route, for its description in OpenAPI and the refusal of other methods.
    """

    def __init__(self, app: ASGIApp, endpoint: EmbeddingsEndpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == EMBEDDINGS_PATH and scope["method"] == "POST":
            response = await self._endpoint.answer(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


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
