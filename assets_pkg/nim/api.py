"""The routes of the NIM text-embedding contract, as an ASGI application over an `EmbeddingService`."""

from __future__ import annotations

import asyncio
import hmac
import logging
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from assets_pkg.nim.errors import (
    ApiError,
    BodyTooLargeError,
    SlowRequestError,
    UnauthorizedError,
    UnsupportedMediaError,
    error_response,
    response_to,
)
from assets_pkg.nim.observe import Observed
from assets_pkg.nim.parse import EmbeddingBody, EmbeddingRequest
from assets_pkg.nim.respond import EmbeddingList, embeddings_body
from assets_pkg.nim.service import EmbeddingService

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Logged and counted for a client that left; nobody receives it."""

API_VERSION = "1.0.0"


def build_app(service: EmbeddingService) -> Observed:
    """The ASGI application for a loaded service. The service outlives it: close it after the last request."""
    app = FastAPI(title="Retune embedding server", version=API_VERSION, redirect_slashes=False)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    _add_embeddings(app, service)
    _add_health(app, service)
    _add_facts(app, service)
    return Observed(app, service)


def _add_embeddings(app: FastAPI, service: EmbeddingService) -> None:
    async def embeddings(request: Request) -> Response:
        _check_key(request, service)
        _check_media(request)
        with service.admitted(_announced_bytes(request, service.settings.body_limit_bytes)):
            body = await _read_body(request, service)
            asked = service.parser.parse(body)
            answer = await _unless_gone(request, service, asked)
        return answer

    app.add_api_route(
        "/v1/embeddings",
        embeddings,
        methods=["POST"],
        summary="Embed texts",
        response_class=Response,
        responses={
            200: {"model": EmbeddingList},
            **dict.fromkeys((400, 401, 404, 408, 413, 415, 422, 500, 503), ERROR),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": EmbeddingBody.model_json_schema()}},
            }
        },
    )


def _add_health(app: FastAPI, service: EmbeddingService) -> None:
    @app.get("/v1/health/live")
    async def live() -> Response:
        """200 as long as the process answers."""
        return _json({"object": "health.response", "message": "Service is live.", "live": True})

    @app.get("/v1/health/ready", responses={503: {}})
    async def ready() -> Response:
        """200 when requests should be sent here, 503 when not."""
        reason = service.not_ready_because
        body = {
            "object": "health.response",
            "message": reason or "Service is ready.",
            "ready": reason is None,
        }
        return _json(body, HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/v1/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_facts(app: FastAPI, service: EmbeddingService) -> None:
    manifest, version = service.manifest, service.version
    name = service.parser.names[0]

    @app.get("/v1/models")
    async def models() -> Response:
        """The names this server answers to, its own first."""
        entry = {"object": "model", "created": service.created, "owned_by": "retune"}
        data = [{"id": served, "root": served, **entry} for served in service.parser.names]
        return _json({"object": "list", "data": data})

    @app.get("/v1/metadata")
    async def metadata() -> Response:
        """Which model this is: its names, version and the digest of its checkpoint."""
        info = {
            "id": name,
            "name": name,
            "version": version,
            "shortName": f"{name}:{version}",
            "maxBatchSize": service.settings.client_batch_limit,
        }
        identity = {"id": name, "name": name, "version": version, "modelDigest": manifest.model_digest}
        shape = {"dimensions": manifest.dimensions, "maxLength": service.max_length}
        return _json({**identity, **shape, "modelInfo": [info]})

    @app.get("/v1/manifest")
    async def served_manifest() -> Response:
        """The manifest of the served model folder."""
        return _json(manifest.model_dump())

    @app.get("/v1/version")
    async def versions() -> Response:
        """The versions of the served model and of this interface."""
        return _json({"release": version, "api": API_VERSION})

    @app.get("/v1/license")
    async def model_license() -> Response:
        """The licence of the served model, null where its folder states none."""
        return _json({"object": "license", "name": manifest.license})


ERROR: dict[str, Any] = {
    "description": "Error",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["object", "message", "detail", "type", "code"],
                "properties": {
                    "object": {"const": "error"},
                    "message": {"type": "string"},
                    "detail": {"type": "object"},
                    "type": {"type": "string"},
                    "code": {"type": "integer"},
                },
            }
        }
    },
}


def _json(body: object, status: int = HTTPStatus.OK) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def _check_key(request: Request, service: EmbeddingService) -> None:
    """Without a key set anything goes: stock clients send placeholders when they have none."""
    key = service.settings.api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    matches = hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode())
    if scheme.lower() != "bearer" or not matches:
        raise UnauthorizedError("A valid API key is needed.", {"WWW-Authenticate": "Bearer"})


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


async def _unless_gone(request: Request, service: EmbeddingService, asked: EmbeddingRequest) -> Response:
    """The answer; or, as soon as the client leaves, nothing, and its texts leave the queue."""
    work = asyncio.ensure_future(_answer(service, asked))
    departure = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({work, departure}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        service.metrics.abandoned.inc()
        return Response(status_code=CLIENT_LEFT)
    finally:
        work.cancel()
        departure.cancel()


async def _answer(service: EmbeddingService, asked: EmbeddingRequest) -> Response:
    vectors, tokens = await service.embed(asked)
    return Response(await embeddings_body(asked, vectors, tokens), media_type="application/json")


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response_to(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    """The last resort; the framework logs the traceback."""
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error.", "internal_server_error")
