"""The routes of the NIM text-embedding contract, as an ASGI application over an `EmbeddingService`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response, Security
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from assets_pkg.nim.access import PROBES, AccessMiddleware
from assets_pkg.nim.dialects import DIALECTS, Dialect
from assets_pkg.nim.endpoint import EMBEDDINGS_PATH, EmbeddingsEndpoint, EmbeddingsMiddleware
from assets_pkg.nim.errors import add_error_handlers
from assets_pkg.nim.schemas import EmbeddingBody, EmbeddingList, resolve_model
from assets_pkg.nim.service import EmbeddingService

API_VERSION = "1.0.0"

EMBEDDINGS_PATHS = frozenset([EMBEDDINGS_PATH, *DIALECTS])
COUNTED_PATHS = frozenset(
    [
        *EMBEDDINGS_PATHS,
        *PROBES,
        "/info",
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license")),
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""

KEY = Security(HTTPBearer(auto_error=False))
"""Has the page ``/docs`` ask for the key; it is checked by `assets_pkg.nim.front`."""

ERROR: dict[str, Any] = {
    "description": "Error",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["object", "message", "detail", "type", "code", "error"],
                "properties": {
                    "object": {"const": "error"},
                    "message": {"type": "string"},
                    "detail": {"type": "object"},
                    "type": {"type": "string"},
                    "code": {"type": "integer"},
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    },
                },
            }
        }
    },
}

ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 404, 408, 413, 415, 422, 500, 503), ERROR)
"""What a request for vectors may be answered with, for OpenAPI."""


def build_app(service: EmbeddingService) -> ASGIApp:
    """The ASGI application for a loaded service. The service outlives it: close it after the last request."""
    app = new_app("Retune embedding server")
    endpoint = EmbeddingsEndpoint(service)
    _add_embeddings(app, endpoint, service)
    _add_dialects(app, endpoint, service)
    _add_health(app, service)
    _add_model(app, service)
    whole: ASGIApp = AccessMiddleware(
        EmbeddingsMiddleware(app, endpoint),
        tracing=service.tracing,
        log=service.settings.access_log,
        traced=EMBEDDINGS_PATHS,
        answered=partial(_count, service),
        draining=lambda: service.draining,
    )
    if origins := service.settings.cors_origins:
        whole = CORSMiddleware(
            whole,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return whole


def _count(service: EmbeddingService, path: str, status: int) -> None:
    label = path if path in COUNTED_PATHS else "other"
    service.metrics.requests.labels(label, str(status)).inc()


def new_app(title: str) -> FastAPI:
    """An application without routes, whose errors have NIM's shape.

    Its page ``/docs`` loads nothing from other hosts, neither scripts from a CDN nor a verdict on its description.
    """
    app = FastAPIOffline(
        title=title,
        version=API_VERSION,
        redirect_slashes=False,
        redoc_url=None,  # ReDoc has its logo from a CDN
        swagger_ui_parameters={"validatorUrl": None},
    )
    add_error_handlers(app)
    return app


def _add_embeddings(app: FastAPI, endpoint: EmbeddingsEndpoint, service: EmbeddingService) -> None:
    example = {"input": ["What is a retriever?"], "model": service.parser.names[0], "input_type": "query"}
    app.add_api_route(
        EMBEDDINGS_PATH,
        endpoint.answer,
        methods=["POST"],
        summary="Embed texts",
        response_class=Response,
        responses={
            200: {"model": EmbeddingList},
            **ERRORS,
        },
        openapi_extra=request_body(EmbeddingBody, example),
        dependencies=[KEY] if service.settings.api_key else [],
    )


def _add_dialects(app: FastAPI, endpoint: EmbeddingsEndpoint, service: EmbeddingService) -> None:
    for path, dialect in DIALECTS.items():
        app.add_api_route(
            path,
            _in_dialect(endpoint, dialect),
            methods=["POST"],
            summary="Embed texts",
            description=" ".join((dialect.body.__doc__ or "").split()),
            response_class=Response,
            responses={200: {"model": dialect.answer}, **ERRORS},
            openapi_extra=request_body(dialect.body, dialect.example),
            dependencies=[KEY] if service.settings.api_key else [],
        )

    @app.get("/info")
    async def info() -> Response:
        """The model and the limits, as Text Embeddings Inference says them; a text that is too long is cut there."""
        manifest, settings = service.manifest, service.settings
        return json_response(
            {
                "model_id": service.parser.names[0],
                "model_sha": manifest.model_digest,
                "model_dtype": "float16" if manifest.dtype == "fp16" else "float32",
                "model_type": {"embedding": {"pooling": manifest.pooling}},
                "max_concurrent_requests": settings.max_queue_requests,
                "max_input_length": service.max_length,
                "max_batch_tokens": settings.batch_tokens,
                "max_batch_requests": None,
                "max_client_batch_size": settings.client_batch_limit,
                "auto_truncate": True,
                "tokenization_workers": service.workers,
                "version": API_VERSION,
            }
        )


def _in_dialect(endpoint: EmbeddingsEndpoint, dialect: Dialect) -> Callable[[Request], Awaitable[Response]]:
    async def embed(request: Request) -> Response:
        return await endpoint.answer_in(dialect, request)

    return embed


def _add_health(app: FastAPI, service: EmbeddingService) -> None:
    @app.get("/v1/health/live", responses={503: {}})
    async def live() -> Response:
        """200 as long as the server can work; 503 when only a restart helps."""
        return _health("live", service.not_live_because)

    @app.get("/health", responses={503: {}})
    @app.get("/v1/health/ready", responses={503: {}})
    async def ready() -> Response:
        """200 when the server accepts requests, 503 when not."""
        return _health("ready", service.not_ready_because)

    @app.get("/metrics", response_class=PlainTextResponse)
    @app.get("/v1/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _health(state: str, problem: str | None) -> Response:
    body = {"object": "health.response", "message": problem or f"Service is {state}.", state: problem is None}
    return json_response(body, HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK)


def _add_model(app: FastAPI, service: EmbeddingService) -> None:
    manifest, version = service.manifest, service.version
    name = service.parser.names[0]

    add_model_list(app, service.parser.names, created=service.created)

    @app.get("/v1/metadata")
    async def metadata() -> Response:
        """Which model this is: its names, version, the digest of its checkpoint, and those of the files that were
        loaded, which have been compared with them."""
        info = {
            "id": name,
            "name": name,
            "version": version,
            "shortName": f"{name}:{version}",
            "maxBatchSize": service.settings.client_batch_limit,
        }
        identity = {"id": name, "name": name, "version": version, "modelDigest": manifest.model_digest}
        shape = {"dimensions": manifest.dimensions, "maxLength": service.max_length}
        files = {"fileDigests": {name: f"sha256:{digest}" for name, digest in manifest.sha256.items()}}
        return json_response({**identity, **shape, **files, "modelInfo": [info]})

    @app.get("/v1/manifest")
    async def served_manifest() -> Response:
        """The manifest of the served model folder."""
        return json_response(manifest.model_dump())

    @app.get("/v1/version")
    async def versions() -> Response:
        """The versions of the served model and of this interface."""
        return json_response({"release": version, "api": API_VERSION})

    @app.get("/v1/license")
    async def model_license() -> Response:
        """The licence of the served model, null where its folder states none."""
        return json_response({"object": "license", "name": manifest.license})


def add_model_list(app: FastAPI, names: Sequence[str], **fields: object) -> None:
    """The routes ``/v1/models`` and ``/v1/models/NAME``; ``fields`` is what each entry says besides its name."""

    def entry(name: str) -> dict[str, object]:
        return {"id": name, "root": name, "object": "model", "owned_by": "retune", **fields}

    @app.get("/v1/models")
    async def models() -> Response:
        """The names this server answers to, its own first."""
        return json_response({"object": "list", "data": [entry(name) for name in names]})

    @app.get("/v1/models/{name:path}", responses={404: ERROR})
    async def model(name: str) -> Response:
        """One of the names this server answers to."""
        return json_response(entry(resolve_model(name, names)[0]))


def request_body(kind: type[BaseModel], example: object = None) -> dict[str, Any]:
    """A route's JSON body for OpenAPI, with an example; the schema stands there in full, without references."""
    content: dict[str, Any] = {"schema": kind.model_json_schema()}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def json_response(body: object, status: int = HTTPStatus.OK) -> Response:
    """A JSON answer; arrays of numbers may be numpy's."""
    return Response(
        orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json"
    )
