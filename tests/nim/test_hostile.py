"""Inputs made to break a server: each gets the stated status and one error body, and none is quoted back."""

from __future__ import annotations

import gzip
import socket
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.hostile_requests import HOSTILE, MARK, body


def post(server: Any, content: bytes, **headers: str) -> Any:
    with server.client as client:
        return client.post(
            "/v1/embeddings", content=content, headers={"Content-Type": "application/json", **headers}
        )


@pytest.mark.parametrize(
    ("content", "status"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_hostile_body(server: Any, content: bytes, status: int) -> None:
    answer = post(server, content)
    assert answer.status_code == status, answer.text
    assert answer.json()["object"] == "error"
    assert answer.json()["code"] == status
    assert MARK not in answer.text
    assert "Traceback" not in answer.text
    assert "/" not in answer.json()["message"].replace("retune/minilm", "").replace("application/json", "")


@pytest.mark.parametrize(
    "text", ["nul \x00 inside", "\U0001f600" * 40, "e\u0301", "\u202eright to left", "a" * 4000]
)
def test_odd_texts_are_embedded(server: Any, text: str) -> None:
    assert server.embed(input=text, truncate="END").status_code == 200


@pytest.mark.parametrize("text", ["\x00", "\u200b\u200c", "\ufffd"])
def test_a_text_without_readable_tokens_gets_the_checkpoints_vector(
    server: Any, oracle: Any, text: str
) -> None:
    answer = server.embed(input=["a", text], input_type="passage").json()
    expected = oracle(["passage: a", f"passage: {text}"])
    np.testing.assert_allclose([row["embedding"] for row in answer["data"]], expected, atol=2e-6)


def test_the_fault_is_placed(server: Any) -> None:
    assert server.embed(input=["a", "b", " "]).json()["message"] == "input[2] is empty"
    assert server.embed(input=["a", 5]).json()["message"] == "input.1: Input should be a valid string"


def test_last_of_duplicate_keys_and_unknown_fields(server: Any) -> None:
    answer = post(server, b'{"input": "a", "input": ["b", "c"], "something": {"else": 1}}')
    assert len(answer.json()["data"]) == 2


def test_media_types(server: Any) -> None:
    assert post(server, body(), **{"Content-Type": "text/plain"}).status_code == 415
    assert post(server, gzip.compress(body()), **{"Content-Encoding": "gzip"}).status_code == 415
    assert post(server, body(), **{"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_routes(server: Any) -> None:
    with server.client as client:
        for method, path, status in [
            ("GET", "/v1/embeddings", 405),
            ("POST", "/v1/embeddings/", 404),
            ("GET", "/", 405),
            ("GET", "/v1/../etc/passwd", 404),
            ("DELETE", "/v1/models", 405),
        ]:
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["object"]) == (status, "error")


def test_body_limit(start: Any) -> None:
    with start(NIM_SERVER_HTTP_BODY_LIMIT_BYTES="20000") as small:
        assert post(small, body(input="a " * 9000, truncate="END")).status_code == 200
        announced = post(small, body(input="a" * 20_000))
        assert (announced.status_code, announced.json()["message"]) == (
            413,
            "The body is larger than 20000 bytes.",
        )

        def endless() -> Any:
            yield from (b"a" * 1000 for _ in range(100))

        with small.client as client:
            streamed = client.post("/v1/embeddings", content=endless())
        assert streamed.status_code == 413


def test_half_a_body_is_given_up_on(start: Any) -> None:
    with start(RETUNE_READ_TIMEOUT_S="0.3") as impatient:
        answer = _raw(
            impatient.url, b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"object":"error"' in answer


def test_endless_head_is_cut_off(server: Any) -> None:
    head = (
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 20_000
    )
    with pytest.raises(ConnectionError):
        _raw(server.url, head)


def test_not_http(server: Any) -> None:
    assert _raw(server.url, b"\x16\x03\x01\x02\x00garbage\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_long_text_costs_what_its_kept_part_costs(server: Any) -> None:
    """Four million characters to a model of 256 tokens: the rest is not even tokenised."""
    before = server.metric("retune_tokenize_seconds_sum")
    answer = server.embed(input="many words " * 360_000, truncate="END")
    assert answer.json()["usage"]["total_tokens"] == 256
    assert server.metric("retune_tokenize_seconds_sum") - before < 0.5


def _raw(url: str, content: bytes) -> bytes:
    """Send bytes, and read until the server closes the connection."""
    address = urlsplit(url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))
