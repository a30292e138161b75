"""The routes of a registered model: the colour benchmark's local provider, and multimodal ``/v1/embeddings``.

Names, dimensions, errors and answers are handled as in `assets_pkg.nim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

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


class LocalAnswer(BaseModel):
    """The answer of the local provider: a vector for one input, a list of vectors for a list."""

    embedding: list[float] | list[list[float]]


def build_app(engine: Engine) -> FastAPI:
    """The ASGI application of one loaded model."""
    app = new_app(f"Retune: {engine.served.name}")
    _add_local(app, engine)
    _add_embeddings(app, engine)
    _add_model(app, engine)
    return app


def _add_local(app: FastAPI, engine: Engine) -> None:
    async def texts(request: Request) -> Response:
        """Vectors of texts."""
        return await engine.front.answer(request, lambda raw: _local(engine, TextBody, raw, text_items))

    async def images(request: Request) -> Response:
        """Vectors of images."""
        return await engine.front.answer(request, lambda raw: _local(engine, ImageBody, raw, image_items))

    for path, route, kind in (("/txt/embed", texts, TextBody), ("/img/embed", images, ImageBody)):
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
        return await engine.front.answer(request, lambda raw: _multimodal(engine, raw))

    for path in ("/v1/embeddings", "/embeddings", "/v1/multimodalembeddings"):
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


async def _multimodal(engine: Engine, raw: bytes) -> Response:
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
    vectors = truncate(await engine.embed(items, role), dimensions)
    shape = EmbeddingRequest(
        texts=[], role=role, model=name, truncate="END", dimensions=dimensions,
        base64=body.encoding_format == "base64",
    )  # fmt: skip
    return Response(await embeddings_body(shape, vectors, 0), media_type="application/json")


async def _local(
    engine: Engine,
    kind: type[TextBody] | type[ImageBody],
    raw: bytes,
    items: Callable[[Sequence[str]], list[SentItem]],
) -> Response:
    inputs = validate_body(kind, parse_json(raw)).input
    vectors = await engine.embed(items([inputs] if isinstance(inputs, str) else inputs), "passage")
    return json_response({"embedding": vectors[0] if isinstance(inputs, str) else list(vectors)})
