"""What clients of other servers ask for: Text Embeddings Inference, Infinity, Cohere; other numbers; browsers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from tests.nim.inprocess import Local

TEXTS = ["one text", "and another text", "a third"]


@pytest.fixture(scope="module")
def local(tiny_export: Path) -> Iterator[Local]:
    with closing(Local(tiny_export)) as made:
        yield made


@pytest.fixture(scope="module")
def expected(local: Local) -> Any:
    answer = local.embed(input=TEXTS, input_type="passage").json()
    return np.array([row["embedding"] for row in answer["data"]], np.float32)


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei(local: Local, expected: Any, path: str) -> None:
    np.testing.assert_allclose(local.ask("POST", path, json={"inputs": TEXTS}).json(), expected, atol=1e-6)
    one = local.ask("POST", path, json={"inputs": TEXTS[0], "prompt_name": "passage", "normalize": True})
    np.testing.assert_allclose(one.json(), expected[:1], atol=1e-6)


def test_tei_cuts_long_texts_unless_told_not_to(local: Local) -> None:
    long = "word " * 5000
    kept = [
        local.ask("POST", "/embed", json={"inputs": long, **options}).json()[0]
        for options in ({}, {"truncate": True, "truncation_direction": "Left"})
    ]
    ends = [local.embed(input=long, truncate=end).json()["data"][0]["embedding"] for end in ("END", "START")]
    np.testing.assert_allclose(kept, ends, atol=1e-6)
    assert local.ask("POST", "/embed", json={"inputs": long, "truncate": False}).status_code == 400
    refused = local.ask("POST", "/embed", json={"inputs": "a", "normalize": False})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "normalize")


def test_tei_info_health_and_metrics(local: Local) -> None:
    info = local.ask("GET", "/info").json()
    assert (info["model_id"], info["max_client_batch_size"], info["auto_truncate"]) == ("tiny", 2048, True)
    assert local.ask("GET", "/health").status_code == 200
    assert "retune_requests_total" in local.ask("GET", "/metrics").text


def test_infinity_and_cohere(local: Local, expected: Any) -> None:
    answer = local.ask("POST", "/embeddings", json={"input": TEXTS, "model": "tiny"}).json()
    np.testing.assert_allclose([row["embedding"] for row in answer["data"]], expected, atol=1e-6)
    body = {
        "texts": TEXTS,
        "model": "tiny",
        "input_type": "search_document",
        "embedding_types": ["float", "int8"],
    }
    embeddings = local.ask("POST", "/v2/embed", json=body).json()["embeddings"]
    np.testing.assert_allclose(embeddings["float"], expected, atol=1e-6)
    assert np.array(embeddings["int8"]).shape == expected.shape


@pytest.mark.parametrize("path", ["/embed", "/", "/embeddings", "/v2/embed"])
def test_limits_keys_and_errors_hold_there_too(local: Local, tiny_export: Path, path: str) -> None:
    field = {"/v2/embed": "texts", "/embeddings": "input"}.get(path, "inputs")
    assert local.ask("POST", path, json={field: [""]}).status_code == 400
    assert local.ask("POST", path, json={field: [5]}).status_code == 422
    assert local.ask("POST", path, json={field: ["a"] * 2049}).status_code == 400
    assert local.ask("POST", path, content=b"{").status_code == 400
    with closing(Local(tiny_export, api_key="k")) as locked:
        assert locked.ask("POST", path, json={field: ["a"]}).status_code == 401
        headers = {"Authorization": "Bearer k"}
        assert locked.ask("POST", path, json={field: ["a"]}, headers=headers).status_code == 200


@pytest.mark.parametrize("kind", ["binary", "ubinary"])
def test_signs_are_packed_as_sentence_transformers_packs_them(local: Local, expected: Any, kind: Any) -> None:
    packed = quantize_embeddings(expected, kind)
    answer = local.embed(input=TEXTS, embedding_type=kind).json()
    np.testing.assert_array_equal([row["embedding"] for row in answer["data"]], packed)
    coded = local.embed(input=TEXTS, embedding_type=kind, encoding_format="base64").json()
    found = [np.frombuffer(base64.b64decode(row["embedding"]), packed.dtype) for row in coded["data"]]
    np.testing.assert_array_equal(found, packed)


def test_bytes_keep_directions(local: Local, expected: Any) -> None:
    rows = local.embed(input=TEXTS, embedding_type="int8").json()["data"]
    signed = np.array([row["embedding"] for row in rows])
    assert (signed.min(), np.abs(signed).max(axis=1).tolist()) >= (-127, [127] * 3)
    cosines = (signed * expected).sum(axis=1) / np.linalg.norm(signed, axis=1)
    assert cosines.min() > 0.9995
    rows = local.embed(input=TEXTS, embedding_type="uint8").json()["data"]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows]) - 128, signed)
    assert local.embed(input="a", embedding_type="int4").status_code == 422


def test_pages_of_named_origins_may_ask(local: Local, tiny_export: Path) -> None:
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    assert "access-control-allow-origin" not in local.ask("GET", "/v1/models", headers=asks).headers
    with closing(Local(tiny_export, cors_origins="https://a.example, https://b.example")) as opened:
        answer = opened.ask("OPTIONS", "/v1/embeddings", headers=asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = opened.ask("POST", "/v1/embeddings", json={"input": "a"}, headers=asks)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert answer.headers["access-control-expose-headers"] == "x-request-id"
        asks["Origin"] = "https://evil.example"
        assert opened.ask("OPTIONS", "/v1/embeddings", headers=asks).status_code == 400
