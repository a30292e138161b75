"""What a connection may hold before and after its request is looked at: measured on a real server and its memory."""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from assets_pkg.nim.errors import OverloadedError
from assets_pkg.nim.front import Front
from assets_pkg.nim.settings import FrontSettings

MIB = 2**20
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"input": "a text"}'
TRAILER = b"X-Trailer: " + b"a" * 1000 + b"\r\n"


def connect(server: Any) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 80), timeout=30)


def sent(connection: socket.socket, parts: Iterator[bytes]) -> int:
    """How many bytes could be sent before the server closed the connection."""
    count = 0
    for part in parts:
        try:
            connection.sendall(part)
        except OSError:
            break
        count += len(part)
    return count


def answer_of(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def locked(start: Any) -> Generator[Any]:
    with start(RETUNE_API_KEY="right") as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    "flood",
    [TRAILER, b"a" * 1000, b"X: y\r\n" * 100],
    ids=["trailers", "one endless trailer", "small trailers"],
)
@pytest.mark.parametrize(
    "key", [b"", b"Authorization: Bearer right\r\n"], ids=["after a 401", "while it is read"]
)
def test_trailers_are_bounded(locked: Any, flood: bytes, key: bytes) -> None:
    head = POST + key + b"Transfer-Encoding: chunked\r\n\r\n"
    before = psutil.Process(locked.process.pid).memory_info().rss
    with connect(locked) as connection:
        connection.sendall(head + b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY) + flood)
        count = sent(connection, (flood * 50 for _ in range(30 * MIB // len(flood) // 50)))
        assert count < 10 * MIB  # what the kernel's buffers take before the loss is seen
    assert psutil.Process(locked.process.pid).memory_info().rss - before < 5 * MIB


@pytest.mark.slow
def test_short_trailers_are_read_and_change_nothing(locked: Any) -> None:
    with connect(locked) as connection:
        chunk = b"%x;note=1\r\n%s\r\n0\r\n" % (len(BODY), BODY)
        trailers = b"Authorization: Bearer right\r\nX-Sum: 1\r\n\r\n"
        connection.sendall(CHUNKED + chunk + trailers)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    with connect(locked) as connection:
        head = POST + b"Authorization: Bearer right\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(2):  # a request that was read to its end leaves the connection open
            connection.sendall(head + chunk + b"X-Sum: 1\r\n\r\n")
            answer = connection.recv(65536)
            while not answer.endswith(b"}}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_line", "status"), [(POST, 401), (POST.replace(b"/v1/embeddings", b"/else"), 404)]
)
def test_an_answer_before_the_bodys_end_closes_the_connection(
    locked: Any, request_line: bytes, status: int
) -> None:
    """The rest of the body is not read, and never taken for the next request."""
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(locked) as connection:
        connection.sendall(request_line + b"Content-Length: 100000\r\n\r\n")
        answer = answer_of(connection)
        assert sent(connection, iter([smuggled])) <= len(smuggled)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.slow
def test_bodies_that_are_announced_and_do_not_come_keep_nobody_out(server: Any) -> None:
    with ExitStack() as waiting:
        for _ in range(40):
            connection = waiting.enter_context(connect(server))
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n{" % (16 * MIB))
        assert server.embed(input="a text").status_code == 200


@pytest.mark.slow
def test_a_client_that_leaves_within_its_body_is_no_fault_of_the_server(start: Any) -> None:
    with start() as served:
        for _ in range(3):
            with connect(served) as connection:
                connection.sendall(POST + b'Content-Length: 100\r\n\r\n{"input": "a')
        left = 'retune_requests_total{code="499",endpoint="/v1/embeddings"}'
        while served.metric(left) < 3:
            pass
        assert served.metric('retune_requests_total{code="500",endpoint="/v1/embeddings"}') == 0
        assert served.metric("retune_requests_abandoned_total") == 3
        served.process.terminate()
        assert "Traceback" not in served.process.communicate(timeout=60)[1]


def test_one_address_holds_half_of_the_room_at_most() -> None:
    front = Front(FrontSettings(body_limit_bytes=100), bodies_held=4)
    with (
        front.holding("greedy") as take,
        front.holding("greedy") as take_more,
        front.holding("other") as others,
    ):
        take(150)
        take_more(50)
        with pytest.raises(OverloadedError):
            take_more(1)
        others(200)
        with front.holding("third") as third, pytest.raises(OverloadedError):
            third(1)
    with front.holding("greedy") as take:  # given back
        take(200)
