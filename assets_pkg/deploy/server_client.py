"""Requests to the deployed server, and the key that it demands.

The key is in the environment of whoever deploys and asks, as ``RETUNE_API_KEY``; it is never stored. A server that was
started with it refuses requests for embeddings without it (`Guard`).
"""

from __future__ import annotations

import os
from typing import Any, Literal

import httpx2

from resources.answer_limit import AnswerTooLargeError
from resources.http_client import own_server_client
from storage.errors import RetuneError

KEY_VARIABLE = "RETUNE_API_KEY"
CERTIFICATE_VARIABLE = "NIM_TLS_CERT_PATH"
TLS_VARIABLES = (CERTIFICATE_VARIABLE, "NIM_TLS_KEY_PATH")
PROBE_TIMEOUT_S = 5.0
PROBE_LIMIT_BYTES = 2**20

Guard = Literal["open", "our key", "another key"]
"""What a server demands: no key, the environment's, or one that the environment does not have."""


class ServerKeyError(RetuneError):
    """The key in the environment cannot be used, or is not the one that the server demands."""


def server_key() -> str | None:
    """The key in the environment, or None.

    Raises:
        ServerKeyError: no HTTP header can hold it.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise ServerKeyError(
            f"{KEY_VARIABLE} begins or ends with a space, or holds characters that no header can: set it anew"
        )
    return key


def authorization() -> dict[str, str]:
    """The headers with which the deployed server is asked for embeddings."""
    key = server_key()
    return {"Authorization": f"Bearer {key}"} if key else {}


def certificate_of(url: str) -> str | None:
    """The certificate of the environment, by which the server at an ``https`` address is known."""
    return os.environ.get(CERTIFICATE_VARIABLE) or None if url.startswith("https:") else None


def server_client(url: str, timeout: float) -> httpx2.Client:
    """A client of the deployed server at ``url`` with the key of the environment."""
    return own_server_client(url, timeout=timeout, headers=authorization(), certificate=certificate_of(url))


def get(url: str, path: str, *, with_key: bool = False) -> httpx2.Response | None:
    """The answer to a request for ``path``; None where there is none with status 200."""
    try:
        with _probe(url, authorization() if with_key else {}) as client:
            answer = client.get(path)
    except (httpx2.HTTPError, AnswerTooLargeError):
        return None
    return answer if answer.status_code == httpx2.codes.OK else None


def get_fields(url: str, path: str, *, with_key: bool = False) -> dict[str, Any]:
    """The JSON object at ``path``; empty where there is none."""
    answer = get(url, path, with_key=with_key)
    try:
        fields = None if answer is None else answer.json()
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def guard_of(url: str, path: str) -> Guard | None:
    """What the server demands for requests to ``path``; None if it does not answer.

    An empty request is enough: a server looks at the key before it reads what it is asked.
    """
    try:
        if not _is_refused(url, path, {}):
            return "open"
        headers = authorization()
        return "our key" if headers and not _is_refused(url, path, headers) else "another key"
    except (httpx2.HTTPError, AnswerTooLargeError):
        return None


def _is_refused(url: str, path: str, headers: dict[str, str]) -> bool:
    with _probe(url, headers) as client:
        return client.post(path, json={}).status_code in (401, 403)


def _probe(url: str, headers: dict[str, str]) -> httpx2.Client:
    return own_server_client(
        url,
        timeout=PROBE_TIMEOUT_S,
        headers=headers,
        answer_limit=PROBE_LIMIT_BYTES,
        certificate=certificate_of(url),
    )
