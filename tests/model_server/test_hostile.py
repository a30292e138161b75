"""Hostile requests on both servers with a key set: no failure, nothing quoted back, documented answers only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import given
from pydantic import SecretStr
from schemathesis import GenerationMode

from assets_pkg.model_server.api import LocalAnswer
from assets_pkg.model_server.api import build_app as build_model_app
from assets_pkg.model_server.engine import Engine, ModelServerSettings, Served
from assets_pkg.nim.api import ERRORS
from assets_pkg.nim.api import build_app as build_nim_app
from assets_pkg.nim.schemas import EmbeddingList
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import ServerSettings
from resources.encoders.factory import LOCAL
from resources.models.entry import ModelEntry
from tests.described_api import TRIED, described_checks
from tests.hostile_requests import MARK, hostile_requests
from tests.model_server.conftest import CPU
from tests.models import tiny
from tests.models.conftest import CLIP

pytestmark = pytest.mark.slow

KEY = "the-right-key"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
LOCAL_PATHS = ("/txt/embed", "/img/embed")


class Locked(NamedTuple):
    """An application that demands ``KEY``, and the paths that take requests for vectors."""

    app: Any
    paths: tuple[str, ...]


@pytest.fixture(scope="module")
def embedding_server(exported: Path) -> Iterator[Locked]:
    service = EmbeddingService(ServerSettings(model_dir=exported, api_key=SecretStr(KEY)))
    yield Locked(build_nim_app(service), ("/v1/embeddings",))
    service.close()


@pytest.fixture(scope="module")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    entry = ModelEntry.model_validate(CLIP)
    folder = tiny.build_clip(tmp_path_factory.mktemp("hostile") / "clip")
    engine = Engine(
        Served("tiny-clip", entry, LOCAL[entry.adapter](folder, entry, "digest", CPU)),
        ModelServerSettings(api_key=SecretStr(KEY)),
    )
    yield Locked(
        build_model_app(engine), ("/v1/embeddings", "/embeddings", "/v1/multimodalembeddings", *LOCAL_PATHS)
    )
    engine.close()


@pytest.fixture(params=["embedding_server", "model_server"])
def locked(request: pytest.FixtureRequest) -> Locked:
    found: Locked = request.getfixturevalue(request.param)
    return found


def test_every_answer_is_a_documented_one(locked: Locked, caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient(locked.app, raise_server_exceptions=False, headers=WITH_KEY)
    answered: dict[int, int] = {}
    for sent in hostile_requests(locked.paths):
        answer = client.request(sent.method, sent.path, headers=sent.headers, content=sent.content)
        said = f"{sent.name} on {sent.path[:40]}: {answer.status_code} {answer.text[:300]}"
        assert answer.status_code < 500, said
        assert MARK not in answer.text, said
        assert "Traceback" not in answer.text, said
        if answer.status_code >= 400:
            fields = answer.json()
            assert (fields["object"], fields["code"]) == ("error", answer.status_code), said
            assert fields["message"], said
            assert {"type", "detail"} <= set(fields), said
            assert answer.status_code in {*ERRORS, 405}, said
        elif sent.method == "POST":
            (LocalAnswer if sent.path in LOCAL_PATHS else EmbeddingList).model_validate(answer.json())
        answered[answer.status_code] = answered.get(answer.status_code, 0) + 1
    assert {200, 400, 404, 405, 415, 422} <= set(answered)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer \xe9",
        "b" * 60_000,
    ],
)
def test_nothing_is_read_without_the_key(locked: Locked, value: str) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def ask(path: str) -> list[Any]:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"20")]
        headers += [(b"authorization", value.encode("latin-1"))] if value else []
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80), "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await locked.app(scope, receive, send)
        return said

    for path in locked.paths:
        start, body = asyncio.run(ask(path))[:2]
        assert start["status"] == 401, path
        assert (b"www-authenticate", b"Bearer") in start["headers"]
        assert b'"object":"error"' in body["body"]


def test_no_request_that_the_description_allows_or_forbids_breaks_it(
    locked: Locked, caplog: pytest.LogCaptureFixture
) -> None:
    """Generated requests, right and wrong, with the key and without: no 5xx, and every answer as described."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", locked.app)
    checks = described_checks()
    paths = set()
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # pyright: ignore[reportAttributeAccessIssue]
        paths.add(operation.path)
        modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if operation.method == "post" else [])]
        for mode in modes:
            cases = operation.as_strategy(generation_mode=mode)
            _try(cases, checks, WITH_KEY)
            _try(cases, checks, {})
    assert set(locked.paths) <= paths
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def _try(cases: Any, checks: list[Any], headers: dict[str, str]) -> None:
    @TRIED
    @given(case=cases)
    def call(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=checks)

    call()
