"""The base model's search over the indexed passages, against brute force; however many they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.reindex import comparison
from resources.encoders.base import Role
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Checkpoint, CorpusEmbeddings, Passages
from storage.progress import Progress, no_progress
from tests.reindex.test_index import SETTINGS, HashingEncoder, build, embeddings, passages

__all__ = ["embeddings", "passages"]

pytestmark = pytest.mark.slow


class Recording(HashingEncoder):
    """Records the number of texts of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[int] = []

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
        self.at_once.append(len(texts))
        return super().embed(texts, role)


def test_the_best_of_all_blocks_are_found_and_few_are_in_memory(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.build(Checkpoint, BuildKey("base_model", "1", {}), _weights)
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    monkeypatch.setattr(comparison, "current_index", lambda _: index)
    monkeypatch.setattr(store, "get", lambda kind, asset, version: passages if kind is Passages else None)
    encoder = Recording()

    def opened(*_: object) -> AbstractContextManager[Recording]:
        return nullcontext(encoder)

    monkeypatch.setattr(comparison, "checkpoint_encoder", opened)
    found = comparison.search_with_base(store, load_profile("laptop"), "pump seal", 70)
    assert max(encoder.at_once) <= 2048
    texts = [each.text for each in passages.passages()]
    scores = HashingEncoder().embed(texts, "passage") @ HashingEncoder().embed(["pump seal"], "query")[0]
    expected = np.argsort(-scores, kind="stable")[:70]  # fifty are the same text: the first come first
    rows = [(each.doc_id, each.chunk_id) for each in passages.passages()]
    assert [(hit.doc_id, hit.chunk_id) for hit in found][:50] == [rows[row] for row in expected][:50]
    np.testing.assert_allclose([hit.score for hit in found], scores[expected], atol=1e-6)


class NearlyEqual:
    """Random vectors close to the query's: many scores are equal in float32 and differ in float64."""

    dimensions = 32

    def identity(self, role: Role) -> str:
        return role

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
        query = np.random.default_rng(0).normal(size=32)
        rows = [np.random.default_rng([len(text), *text.encode()]).normal(size=32) for text in texts]
        vectors = query + (0.05 * np.array(rows) if role == "passage" else 0 * np.array(rows))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_nearly_equal_scores_are_ordered_as_in_float64(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.build(Checkpoint, BuildKey("base_model", "1", {}), _weights)
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    monkeypatch.setattr(comparison, "current_index", lambda _: index)
    monkeypatch.setattr(store, "get", lambda kind, asset, version: passages if kind is Passages else None)
    monkeypatch.setattr(comparison, "checkpoint_encoder", lambda *_: nullcontext(NearlyEqual()))
    found = comparison.search_with_base(store, load_profile("laptop"), "pump seal", 2000)
    rows = [(each.doc_id, each.chunk_id, each.text) for each in passages.passages()]
    vectors = NearlyEqual().embed([text for *_, text in rows], "passage").astype(np.float64)
    query = NearlyEqual().embed(["pump seal"], "query")[0].astype(np.float64)
    scores = np.einsum("ij,j->i", vectors, query)
    order = np.lexsort((np.arange(len(rows)), -scores))[:2000]
    assert [(hit.doc_id, hit.chunk_id) for hit in found] == [rows[row][:2] for row in order]


def _weights(folder: Path) -> None:
    (folder / "model" / "consolidated").mkdir(parents=True)
    (folder / "model" / "consolidated" / "model.safetensors").write_bytes(b"weights")
