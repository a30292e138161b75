"""The routes of a registered model: the colour benchmark's local provider, and multimodal ``/v1/embeddings``.

Names, dimensions, errors and answers are handled as in `assets_pkg.nim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Scope

from assets_pkg.model_server.bodies import (
    ImageBody,
    MultimodalBody,
    SentItem,
    TextBody,
    image_items,
    items_of,
    text_items,
)
from assets_pkg.model_server.engine import Engine
from assets_pkg.nim.access import AccessMiddleware
from assets_pkg.nim.api import ERRORS, add_model_list, json_response, new_app, request_body
from assets_pkg.nim.errors import ApiError
from assets_pkg.nim.schemas import (
    EmbeddingList,
    EmbeddingRequest,
    embeddings_body,
    parse_json,
    refuse_token_ids,
    resolve_dimensions,
    resolve_model,
    truncate,
    validate_body,
)
from assets_pkg.nim.tracing import COUNTS

if TYPE_CHECKING:
    from resources.encoders.base import Role, Vectors


class LocalAnswer(BaseModel):
    """The answer of the local provider: a vector for one input, a list of vectors for a list."""

    embedding: list[float] | list[list[float]]


LOCAL_PATHS = ("/txt/embed", "/img/embed")
EMBEDDINGS_PATHS = ("/v1/embeddings", "/embeddings", "/v1/multimodalembeddings")


def build_app(engine: Engine) -> ASGIApp:
    """The ASGI application of one loaded model."""
    app = new_app(f"Retune: {engine.served.name}")
    _add_local(app, engine)
    _add_embeddings(app, engine)
    _add_model(app, engine)
    return AccessMiddleware(
        app,
        tracing=engine.tracing,
        log=engine.settings.access_log,
        traced=[*LOCAL_PATHS, *EMBEDDINGS_PATHS],
    )


def _add_local(app: FastAPI, engine: Engine) -> None:
    async def texts(request: Request) -> Response:
        """Vectors of texts."""
        return await engine.front.answer(request, lambda raw: _local(engine, request.scope, TextBody, raw))

    async def images(request: Request) -> Response:
        """Vectors of images."""
        return await engine.front.answer(request, lambda raw: _local(engine, request.scope, ImageBody, raw))

    for path, route, kind in zip(LOCAL_PATHS, (texts, images), (TextBody, ImageBody), strict=True):
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            openapi_extra=request_body(kind),
            responses={200: {"model": LocalAnswer}, **ERRORS},
        )

    @app.get("/health")
    async def health() -> Response:
        """200 while the model is loaded."""
        return json_response({"status": "ok"})


def _add_embeddings(app: FastAPI, engine: Engine) -> None:
    async def embeddings(request: Request) -> Response:
        """Vectors of texts, images, or both together, in the shapes that many clients send."""
        return await engine.front.answer(request, lambda raw: _multimodal(engine, request.scope, raw))

    for path in EMBEDDINGS_PATHS:
        app.add_api_route(
            path, embeddings, methods=["POST"], openapi_extra=request_body(MultimodalBody),
            responses={200: {"model": EmbeddingList}, **ERRORS},
        )  # fmt: skip


def _add_model(app: FastAPI, engine: Engine) -> None:
    served = engine.served

    @app.get("/v1/health/live")
    @app.get("/v1/health/ready")
    async def ready() -> Response:
        """200 while the model is loaded."""
        return json_response(
            {"object": "health.response", "message": "Service is ready.", "ready": True, "live": True}
        )

    add_model_list(app, served.names)

    @app.get("/v1/metadata")
    async def metadata() -> Response:
        """Which model this is, what it embeds, and the digest of everything that its vectors depend on."""
        description = {
            "id": served.name,
            "name": served.name,
            "modelDigest": served.encoder.identity("passage"),
            "dimensions": engine.dimensions,
            "modalities": list(served.encoder.modalities),
            "license": served.entry.license,
        }
        return json_response(description)


async def _multimodal(engine: Engine, scope: Scope, raw: bytes) -> Response:
    document = parse_json(raw)
    refuse_token_ids(document)
    body = validate_body(MultimodalBody, document)
    name, suffix_role = resolve_model(body.model, engine.served.names)
    role = suffix_role or ("query" if body.input_type == "query" else "passage")
    allowed = engine.served.entry.matryoshka_dims
    dimensions = resolve_dimensions(body.dimensions, engine.dimensions, allowed)
    items = items_of(body)
    if body.input_type == "query" and any(item.modality == "image" for item in items):
        raise ApiError("an image is a passage: leave input_type out, or send passage")
    vectors = truncate(await _embedded(engine, scope, items, role), dimensions)
    shape = EmbeddingRequest(
        texts=[], role=role, model=name, truncate="END", dimensions=dimensions,
        base64=body.encoding_format == "base64",
    )  # fmt: skip
    return Response(await embeddings_body(shape, vectors, 0), media_type="application/json")


async def _local(
    engine: Engine, scope: Scope, kind: type[TextBody] | type[ImageBody], raw: bytes
) -> Response:
    inputs = validate_body(kind, parse_json(raw)).input
    items = (text_items if kind is TextBody else image_items)([inputs] if isinstance(inputs, str) else inputs)
    vectors = await _embedded(engine, scope, items, "passage")
    return json_response({"embedding": vectors[0] if isinstance(inputs, str) else list(vectors)})


async def _embedded(engine: Engine, scope: Scope, items: Sequence[SentItem], role: Role) -> Vectors:
    vectors = await engine.embed(items, role)
    scope[COUNTS] = {
        "texts": sum(item.text is not None for item in items),
        "images": sum(len(item.images) for item in items),
    }
    return vectors
