"""No answer of a remote service is read beyond its limit, however it is sent and however it is compressed."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_state import is_ready
from resources.answer_limit import AnswerTooLargeError
from resources.chat_model import transport
from resources.chat_model.config import ChatConfig
from resources.chat_model.retries import RequestFailure
from resources.encoders.http import HttpEncoder, ServiceError, server_problem
from resources.http_client import http_client
from resources.models.entry import ModelEntry
from tests.loopback import serving

MIB = 2**20
LIMIT = 64 * MIB


class Endless(ThreadingHTTPServer):
    """Answers every request with one body: for ever, of an announced size, or compressed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.headers: dict[str, str] = {}
        self.parts: Any = lambda: iter(())
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, parts: Any, **headers: str) -> None:
        self.parts, self.sent = parts, 0
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _Handler(BaseHTTPRequestHandler):
    server: Endless  # pyright: ignore[reportIncompatibleVariableOverride]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for part in self.server.parts():
                self.wfile.write(part)
                self.server.sent += len(part)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Endless]:
    with serving(Endless()) as server:
        yield server


def endless() -> Iterator[bytes]:
    while True:
        yield b"a" * 65536


def bomb() -> Iterator[bytes]:
    """512 MiB in half a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(512):
        yield packer.compress(bytes(MIB))
    yield packer.flush()


def bomb_in_bomb() -> Iterator[bytes]:
    """512 MiB in some kilobytes, compressed twice."""
    yield gzip.compress(b"".join(bomb()), 9)


@pytest.mark.parametrize(
    ("parts", "headers"),
    [
        (endless, {}),
        (endless, {"Content_Length": str(10 * LIMIT)}),
        (bomb, {"Content_Encoding": "gzip"}),
        (bomb_in_bomb, {"Content_Encoding": "gzip, gzip"}),
    ],
    ids=["endless", "announced", "compressed", "compressed twice"],
)
@pytest.mark.slow
def test_it_ends_at_the_limit_with_the_host_and_the_limit(
    service: Endless, parts: Any, headers: dict[str, str]
) -> None:
    service.answer(parts, **headers)
    host = service.url.removeprefix("http://")
    message = f"^the answer of {host} is larger than 1 MiB, "
    tracemalloc.start()
    try:
        with (
            http_client(service.url, timeout=30, answer_limit=MIB) as client,
            pytest.raises(AnswerTooLargeError, match=message),
        ):
            client.get("/")
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_what_is_compressed_and_small_is_read(service: Endless) -> None:
    service.answer(lambda: iter([gzip.compress(b'{"a": 1}')]), Content_Encoding="gzip")
    with http_client(service.url, timeout=30) as client:
        answer = client.get("/")
        assert (answer.json(), answer.text) == ({"a": 1}, '{"a": 1}')


def test_a_probe_of_the_deployed_server(service: Endless) -> None:
    service.answer(endless)
    assert not is_ready(service.url)


@pytest.mark.slow
def test_every_client_of_a_service_says_so(service: Endless, tmp_path: Path) -> None:
    service.answer(endless)
    said = f"the answer of 127.0.0.1:{service.server_port} is larger than "
    entry = ModelEntry(adapter="http", dialect="openai", base_url=service.url)
    with pytest.raises(ServiceError, match=f"{said}64 MiB"):
        HttpEncoder("m", entry).embed(["a"], "passage")
    assert server_problem("m", entry) is None
    with pytest.raises(AnswerTooLargeError, match=f"{said}64 MiB"):
        ServedEncoder(service.url, "m", 2, "identity").embed(["a"], "passage")

    async def ask() -> Any:
        found = transport.Transport(ChatConfig(base_url=service.url, cache=tmp_path / "answers"), None)
        try:
            return await found.send({"model": "m", "messages": []})
        finally:
            await found.close()

    service.answer(endless)
    failure = asyncio.run(ask())
    assert isinstance(failure, RequestFailure)
    assert failure.detail.startswith(f"{said}16 MiB")
    assert not failure.again
    service.answer(lambda: iter([json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()]))
    assert asyncio.run(ask()).choices[0].message.text == "yes"
