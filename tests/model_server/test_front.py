"""What the model server lets in: the key, the limits and deadlines, and what an image may cost before it is refused."""

from __future__ import annotations

import base64
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr

from assets_pkg.model_server import bodies
from assets_pkg.model_server.api import build_app
from assets_pkg.model_server.bodies import MultimodalBody, decoded, items_of
from assets_pkg.model_server.engine import Engine, ModelServerSettings, Served
from assets_pkg.model_server.serve import ServeError, serve_model
from assets_pkg.nim.errors import ApiError
from assets_pkg.nim.observability import Access
from assets_pkg.nim.schemas import validate_body
from resources.encoders.items import data_uri, encode_png
from resources.models.entry import ModelEntry
from tests.model_server.conftest import listening
from tests.models.conftest import CLIP
from tests.nim.collector import collecting

RED = Image.new("RGB", (64, 48), (255, 0, 0))
PIXELS = 64 * 48
PATTERN_BEFORE = re.compile(r"\s?(data:image/[\w.+-]+;base64,\S+)\s*$", re.IGNORECASE)
"""How a data URI at the end of a text was found before: the same answers, in quadratic time."""


class TextEncoder:
    """A model of texts; it waits where it is told to, and keeps what it was given."""

    modalities = ("text",)

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = threading.Event()
        self.texts: list[str] = []

    def identity(self, role: str) -> str:
        return f"digest-{role}"

    def embed(self, items: Sequence[Any], role: str) -> Any:
        self.texts += [getattr(item, "text", item) for item in items]
        self.begun.set()
        assert self.go_on.wait(60)
        return np.eye(1, 4, dtype=np.float32).repeat(len(items), axis=0)

    def close(self) -> None: ...


def engine_of(encoder: Any, **settings: Any) -> Engine:
    served = Served("tiny", ModelEntry.model_validate(CLIP), encoder)
    engine = Engine(served, ModelServerSettings(**settings))
    encoder.begun.clear()
    return engine


def post(url: str, text: str, **headers: str) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/embeddings", json={"input": text}, headers=headers, timeout=60)


def raw(url: str, content: bytes) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname or "", address.port or 80), timeout=30)
    connection.sendall(content)
    return connection


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestKey:
    @pytest.mark.parametrize(
        "path", ["/v1/embeddings", "/embeddings", "/v1/multimodalembeddings", "/txt/embed", "/img/embed"]
    )
    def test_is_asked_for_before_the_body_is_read(self, path: str) -> None:
        with listening(engine_of(TextEncoder(), api_key=SecretStr("right"))) as url:
            for header in ("", "Authorization: Bearer wrong\r\n", "Authorization: right\r\n"):
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 1000\r\n\r\n"
                with raw(url, head.encode()) as connection:
                    answer = b"".join(iter(lambda: connection.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 401 ")

    def test_lets_its_owner_in(self) -> None:
        with listening(engine_of(TextEncoder(), api_key=SecretStr("right"))) as url:
            assert post(url, "a", Authorization="Bearer right").status_code == 200
            assert httpx2.get(f"{url}/v1/health/ready").status_code == 200

    def test_comes_from_the_environment_and_a_bad_value_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RETUNE_READ_TIMEOUT_S", "soon")
        with pytest.raises(ServeError, match=r"^RETUNE_READ_TIMEOUT_S: "):
            serve_model("any")


class TestLimits:
    def test_a_body_that_is_too_large(self) -> None:
        with listening(engine_of(TextEncoder(), body_limit_bytes=1000)) as url:
            assert post(url, "a" * 2000).status_code == 413
            assert post(url, "a" * 200).status_code == 200

    def test_a_body_that_does_not_come(self) -> None:
        with listening(engine_of(TextEncoder(), read_timeout_s=0.2)) as url:
            head = b"POST /txt/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
            with raw(url, head) as connection:
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 408 ")

    def test_a_client_that_leaves_within_its_body_is_no_fault(self, caplog: pytest.LogCaptureFixture) -> None:
        engine = engine_of(TextEncoder())
        left = threading.Event()
        engine.front._on_left = left.set
        with caplog.at_level(logging.ERROR), listening(engine) as url:
            raw(url, b"POST /txt/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{").close()
            assert left.wait(30)
        assert not caplog.records

    def test_more_requests_than_may_wait(self) -> None:
        encoder = TextEncoder()
        with listening(engine_of(encoder, max_queue_requests=1)) as url, ThreadPoolExecutor() as pool:
            encoder.go_on.clear()
            first = pool.submit(post, url, "first")
            assert encoder.begun.wait(30)
            assert post(url, "second").status_code == 503
            encoder.go_on.set()
            assert first.result().status_code == 200

    def test_a_request_past_its_time_and_one_whose_client_left_are_not_begun(self) -> None:
        encoder = TextEncoder()
        engine = engine_of(encoder, request_timeout_s=0.5)
        with listening(engine) as url, ThreadPoolExecutor() as pool:
            encoder.go_on.clear()
            first = pool.submit(post, url, "first")
            assert encoder.begun.wait(30)
            body = b'{"input": "left"}'
            head = b"POST /txt/embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            raw(url, head + body).close()
            assert post(url, "late").status_code == 503
            assert first.result().status_code == 503
            until(lambda: engine.front.requests == 0)
            encoder.go_on.set()
            assert post(url, "after").status_code == 200
        assert encoder.texts == ["warm up", "first", "after"]


class TestImages:
    def test_a_model_of_texts_decodes_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(data: str) -> Image.Image:
            raise AssertionError("decoded")

        monkeypatch.setattr(bodies, "decode_image", refuse)
        with listening(engine_of(TextEncoder())) as url:
            for path, value, kind in (
                ("/img/embed", [data_uri(RED)] * 20, "image"),
                ("/v1/embeddings", ["a", data_uri(RED)], "image"),
                ("/v1/embeddings", [{"text": "a", "image": data_uri(RED)}], "text_image"),
            ):
                reply = httpx2.post(url + path, json={"input": value}, timeout=60)
                assert reply.status_code == 400
                assert f"tiny does not embed {kind}, only text" in reply.json()["message"]

    def test_of_a_request_have_a_limit_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "MAX_REQUEST_PIXELS", 3 * PIXELS)
        body: dict[str, Any] = {"input": ["a", {"image": [data_uri(RED)] * 2}, data_uri(RED)]}
        allowed = items_of(MultimodalBody(**body))
        assert len(decoded(allowed, ("text", "image"), "tiny")) == 3
        header = base64.b64encode(encode_png(RED)[:60]).decode()  # says how large it is; the rest is missing
        one_more = items_of(MultimodalBody(input=[*body["input"], {"image": header}]))
        with pytest.raises(ApiError, match=r"input\[3\]: the images have more than the 9,216 pixels allowed"):
            decoded(one_more, ("text", "image"), "tiny")


class TestDataUris:
    @pytest.mark.parametrize(
        "text",
        [
            "data:image/a;base64," * 20_000 + " x",
            " data:image/a;base64,b" * 20_000 + " x",
            " " * 400_000 + "x",
        ],
        ids=["in one word", "in many words", "blanks"],
    )
    def test_are_looked_for_in_linear_time(self, text: str) -> None:
        started = time.monotonic()
        (item,) = items_of(MultimodalBody(input=["a" + text]))
        assert item.images == ()
        assert time.monotonic() - started < 1

    @given(
        st.lists(
            st.sampled_from(
                ["data:image/png;base64,", "DATA:image/a", ";base64,", "QUJD", " ", "\n", "x", "\u3000"]
            )
        )
    )
    def test_are_found_where_they_were(self, parts: list[str]) -> None:
        text = "a" + "".join(parts)
        (item,) = items_of(MultimodalBody(input=[text]))
        found = PATTERN_BEFORE.search(text)
        expected = (text, ()) if found is None else (text[: found.start()], (found.group(1),))
        assert (item.text, item.images) == expected

    @pytest.mark.parametrize("field", ["input", "inputs", "messages"])
    def test_a_long_list_is_refused_before_its_items_are_read(self, field: str) -> None:
        with pytest.raises(ApiError, match="Batch size 1000000 exceeds limit 256"):
            validate_body(MultimodalBody, {field: [7] * 1_000_000})


class TestWhatAnOperatorSees:
    def test_one_line_for_each_request_with_the_clients_id(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "assets_pkg.nim.access")
        client = TestClient(build_app(engine_of(TextEncoder())), client=("127.0.0.1", 1))
        answer = client.post(
            "/v1/embeddings", json={"input": ["a", "b"]}, headers={"X-Request-Id": "order-7"}
        )
        assert answer.headers["x-request-id"] == "order-7"
        client.post("/txt/embed", json={"input": ""})
        client.get("/health")
        lines = [record.msg for record in caplog.records if isinstance(record.msg, Access)]
        assert [(line.request, line.status, line.counts) for line in lines] == [
            ("POST /v1/embeddings", 200, {"texts": 2, "images": 0}),
            ("POST /txt/embed", 400, {}),
        ]
        assert lines[0].request_id == "order-7"

    def test_the_log_can_be_off(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "assets_pkg.nim.access")
        TestClient(build_app(engine_of(TextEncoder(), access_log=False))).post(
            "/txt/embed", json={"input": "a"}
        )
        assert not [each for each in caplog.records if each.name == "assets_pkg.nim.access"]

    def test_traces_reach_a_collector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with collecting(monkeypatch) as collected:
            engine = engine_of(TextEncoder(), tracing=True)
            TestClient(build_app(engine)).post("/v1/embeddings", json={"input": ["a", "b"]})
            engine.close()
        spans = collected.spans()
        assert set(spans) == {"POST /v1/embeddings", "embed"}
        assert spans["embed"].parent_span_id == spans["POST /v1/embeddings"].span_id

    def test_its_settings_come_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("RETUNE_LOG_FILE", str(tmp_path / "none" / "server.log"))
        with pytest.raises(ServeError, match=r"RETUNE_LOG_FILE: .*server\.log: No such file"):
            serve_model("tiny", port=0)


def test_the_page_of_the_interface_loads_nothing_from_elsewhere() -> None:
    client = TestClient(build_app(engine_of(TextEncoder())))
    page = client.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"(?:https?:)?//", page.text.replace("http://testserver", ""))
    assert '"validatorUrl": null' in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        assert client.get(path).status_code == 200, path
    assert client.get("/redoc").status_code == 404
