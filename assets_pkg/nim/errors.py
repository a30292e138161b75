"""Errors: those that a request is answered with, all of one shape, and the one that keeps a server from starting."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException


class PortError(Exception):
    """The server cannot listen on its address; the message is one line."""


class ApiError(Exception):
    """A request is answered with an error; the message is for the client and never quotes its input."""

    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    code: str | None = None
    """OpenAI's name of the fault, where it has one."""

    def __init__(
        self, message: str, headers: Mapping[str, str] | None = None, *, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})


class UnauthorizedError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    type = "authentication_error"
    code = "invalid_api_key"


class UnknownModelError(ApiError):
    status = HTTPStatus.NOT_FOUND
    type = "not_found_error"
    code = "model_not_found"


class SlowRequestError(ApiError):
    status = HTTPStatus.REQUEST_TIMEOUT


class BodyTooLargeError(ApiError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaError(ApiError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UnprocessableError(ApiError):
    """The body is JSON of the wrong shape."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class InternalError(ApiError):
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "internal_server_error"


class OverloadedError(ApiError):
    """The client should try again later: stock clients retry a 503 and honour Retry-After."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "service_unavailable_error"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, {"Retry-After": str(retry_after_s)})


def error_response(
    status: int,
    message: str,
    error_type: str = "invalid_request_error",
    headers: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> Response:
    """An error in NIM's format, and in OpenAI's below ``error``.

    NVIDIA's clients for LangChain and Haystack print the ``message`` at the top level; OpenAI's client for Node and
    those made like it read nothing but ``error``.

    Args:
        param: the field of the request that is at fault.
        code: OpenAI's name of the fault.
    """
    body = {
        "object": "error",
        "message": message,
        "detail": {},
        "type": error_type,
        "code": status,
        "error": {"message": message, "type": error_type, "param": param, "code": code},
    }
    return Response(orjson.dumps(body), status, headers, "application/json")


def response_to(error: ApiError) -> Response:
    return error_response(
        error.status, error.message, error.type, error.headers, param=error.param, code=error.code
    )


def failure_response() -> Response:
    """For a fault of the server itself, which is not described to the client."""
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error.", "internal_server_error")


def add_error_handlers(app: FastAPI) -> None:
    """Have every error that ``app`` answers with in this shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return response_to(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    """For any other exception; the framework logs the traceback."""
    return failure_response()
