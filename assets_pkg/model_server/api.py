"""A registered model as a service: the colour benchmark's local provider, and multimodal ``/v1/embeddings``."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from assets_pkg.model_server.bodies import (
    ImageBody,
    MultimodalBody,
    TextBody,
    image_items,
    items_of,
    read_body,
)
from assets_pkg.model_server.engine import Engine
from assets_pkg.nim.errors import (
    ApiError,
    BodyTooLargeError,
    UnknownModelError,
    UnsupportedMediaError,
    error_response,
    response_to,
)
from assets_pkg.nim.schemas import ROLE_SUFFIXES, EmbeddingList, EmbeddingRequest, embeddings_body
from resources.encoders.base import Role
from resources.encoders.items import Item

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

MAX_BODY_BYTES = 64 * 1024 * 1024
API_VERSION = "1.0.0"


class LocalAnswer(BaseModel):
    """The answer of the local provider: a vector for one input, a list of vectors for a list."""

    embedding: list[float] | list[list[float]]


def build_app(engine: Engine) -> FastAPI:
    """The ASGI application of one loaded model."""
    app = FastAPI(title=f"Retune: {engine.served.name}", version=API_VERSION, redirect_slashes=False)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    _add_local(app, engine)
    _add_embeddings(app, engine)
    _add_facts(app, engine)
    return app


def _add_local(app: FastAPI, engine: Engine) -> None:
    async def texts(request: Request) -> Response:
        """Vectors of texts."""
        body: TextBody = read_body(TextBody, await _read(request))
        return await _local(engine, body.input, lambda values: [_text(value) for value in values])

    async def images(request: Request) -> Response:
        """Vectors of images."""
        body: ImageBody = read_body(ImageBody, await _read(request))
        return await _local(engine, body.input, image_items)

    for path, route, kind in (("/txt/embed", texts, TextBody), ("/img/embed", images, ImageBody)):
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            openapi_extra=_described(kind),
            responses={200: {"model": LocalAnswer}},
        )

    @app.get("/health")
    async def health() -> Response:
        """200 while the model is loaded."""
        return _json({"status": "ok"})


def _add_embeddings(app: FastAPI, engine: Engine) -> None:
    async def embeddings(request: Request) -> Response:
        """Vectors of texts, images, or both together, in the shapes that many clients send."""
        body: MultimodalBody = read_body(MultimodalBody, await _read(request))
        name, role = _name_and_role(engine, body)
        dimensions = _dimensions(engine, body.dimensions)

        def read() -> list[Item]:
            items = items_of(body)
            if body.input_type == "query" and any(item.modality == "image" for item in items):
                raise ApiError("an image is a passage: leave input_type out, or send passage")
            return items

        vectors = leading(await engine.embed(read, role), dimensions)
        shape = EmbeddingRequest(
            texts=[], role=role, model=name, truncate="END", dimensions=dimensions,
            base64=body.encoding_format == "base64",
        )  # fmt: skip
        return Response(await embeddings_body(shape, vectors, 0), media_type="application/json")

    for path in ("/v1/embeddings", "/embeddings", "/v1/multimodalembeddings"):
        app.add_api_route(
            path, embeddings, methods=["POST"], openapi_extra=_described(MultimodalBody),
            responses={200: {"model": EmbeddingList}},
        )  # fmt: skip


def _add_facts(app: FastAPI, engine: Engine) -> None:
    served = engine.served

    @app.get("/v1/health/live")
    @app.get("/v1/health/ready")
    async def ready() -> Response:
        """200 while the model is loaded."""
        return _json(
            {"object": "health.response", "message": "Service is ready.", "ready": True, "live": True}
        )

    @app.get("/v1/models")
    async def models() -> Response:
        """The names that this server answers to, its own first."""
        data = [{"id": name, "root": name, "object": "model", "owned_by": "retune"} for name in served.names]
        return _json({"object": "list", "data": data})

    @app.get("/v1/metadata")
    async def metadata() -> Response:
        """Which model this is, what it embeds, and the digest of all that decides its vectors."""
        facts = {
            "id": served.name,
            "name": served.name,
            "modelDigest": served.encoder.identity("passage"),
            "dimensions": engine.dimensions,
            "modalities": list(served.encoder.modalities),
            "license": served.entry.license,
        }
        return _json(facts)


async def _local(engine: Engine, given: str | list[str], read: Any) -> Response:
    values = [given] if isinstance(given, str) else given
    vectors = await engine.embed(lambda: read(values), "passage")
    shown = vectors[0] if isinstance(given, str) else list(vectors)
    return Response(
        orjson.dumps({"embedding": shown}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


def _text(value: str) -> Item:
    if not value.strip():
        raise ApiError("input is empty")
    return Item(text=value)


def _name_and_role(engine: Engine, body: MultimodalBody) -> tuple[str, Role]:
    role: Role = "query" if body.input_type == "query" else "passage"
    names, name = engine.served.names, body.model
    if name is None or name in names:
        return name or names[0], role
    for suffix, named in ROLE_SUFFIXES.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in names:
            return name, named
    raise UnknownModelError(f"Unsupported model, expected '{names[0]}'")


def _dimensions(engine: Engine, wanted: int | None) -> int:
    full, allowed = engine.dimensions, engine.served.entry.matryoshka_dims
    if wanted is None or wanted == full:
        return full
    if wanted > full:
        raise ApiError(f"dimensions {wanted} exceeds embedding size {full}")
    if wanted not in allowed:
        choices = ", ".join(str(size) for size in sorted({*allowed, full}))
        raise ApiError(f"dimensions {wanted} is not one of {choices}")
    return wanted


def leading(vectors: Vectors, dimensions: int) -> Vectors:
    """The first ``dimensions`` numbers of each vector, scaled to length 1 again."""
    import numpy as np

    if dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


async def _read(request: Request) -> bytes:
    """The body, refused as soon as it is larger than allowed."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedMediaError("The body must be application/json.")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise BodyTooLargeError(
                f"The body is larger than {MAX_BODY_BYTES} bytes.", {"Connection": "close"}
            )
        parts.append(part)
    return b"".join(parts)


def _described(kind: type[BaseModel]) -> dict[str, Any]:
    """The body in OpenAPI, in full and without references: clients look for lists in ``input`` to learn of
    batches."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response_to(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    """The last resort; the framework logs the traceback."""
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error.", "internal_server_error")
