"""A vector without a direction in the dimensions asked for is answered with an error by both servers, never as NaN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from assets_pkg.model_server.api import build_app as build_model_app
from assets_pkg.model_server.engine import Engine, Served
from assets_pkg.nim.api import build_app as build_nim_app
from assets_pkg.nim.errors import InternalError
from assets_pkg.nim.loading import LoadedModel, load_export
from assets_pkg.nim.model import Model, TokenMatrix, Vectors
from assets_pkg.nim.schemas import truncate
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import ServerSettings
from resources.models.entry import ModelEntry
from tests.models.conftest import CLIP

SIZE, CUT = 384, 64


def last_axis(rows: int) -> Vectors:
    """Unit vectors along the last dimension: the first ones are all zero."""
    vectors = np.zeros((rows, SIZE), dtype=np.float32)
    vectors[:, -1] = 1
    return vectors


class LastAxisModel(Model):
    provider = "a test"

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        return last_axis(len(input_ids))


class LastAxisEncoder:
    modalities = ("text",)

    def identity(self, role: str) -> str:
        return f"digest-{role}"

    def embed(self, items: Sequence[Any], role: str) -> Vectors:
        return last_axis(len(items))

    def close(self) -> None: ...


def answer_of_the_embedding_server(folder: Path, body: dict[str, Any]) -> Any:
    def load(path: Path, max_length: int | None) -> LoadedModel:
        loaded = load_export(path, max_length)
        return LoadedModel(loaded.manifest, loaded.tokenizer, LastAxisModel(path, SIZE), 0)

    service = EmbeddingService(ServerSettings(model_dir=folder), load)
    try:
        return TestClient(build_nim_app(service)).post("/v1/embeddings", json=body)
    finally:
        service.close()


def answer_of_the_model_server(folder: Path, body: dict[str, Any]) -> Any:
    entry = ModelEntry.model_validate({**CLIP, "dimensions": SIZE, "matryoshka_dims": [CUT]})
    encoder: Any = LastAxisEncoder()
    engine = Engine(Served("last-axis", entry, encoder))
    try:
        return TestClient(build_model_app(engine)).post("/v1/embeddings", json=body)
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("ask", [answer_of_the_embedding_server, answer_of_the_model_server])
def test_no_direction_is_an_error(exported: Path, ask: Any) -> None:
    whole = ask(exported, {"input": "a", "input_type": "passage"})
    assert whole.json()["data"][0]["embedding"] == last_axis(1)[0].tolist()
    reply = ask(exported, {"input": "a", "input_type": "passage", "dimensions": CUT})
    assert reply.status_code == httpx2.codes.INTERNAL_SERVER_ERROR
    assert f"The first {CUT} dimensions of an embedding are all zero" in reply.json()["message"]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_truncate_refuses_rows_that_cannot_be_scaled(value: float) -> None:
    vectors = np.array([[3, 4, 1], [value, 0, 1]], dtype=np.float32)
    with pytest.raises(InternalError, match="all zero or not finite"):
        truncate(vectors, 2)


def test_truncate_scales_the_first_components() -> None:
    vectors = np.array([[3, 4, 12], [0, 5, 12]], dtype=np.float32) / 13
    np.testing.assert_allclose(truncate(vectors, 2), [[0.6, 0.8], [0, 1]], rtol=1e-6)
    assert truncate(vectors, 3) is vectors
