"""An index that fails its check is never searched; the one before it goes on, and the plan says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.orchestration.resources import encoders_for
from assets_pkg.reindex.searched_index import current_index, index_of
from assets_pkg.reindex.searcher import find_model, open_searcher
from storage.artifact_store import ArtifactStore
from storage.artifacts import Passages
from storage.digests import digest_text
from storage.embedding_cache import EmbeddingCache
from storage.paths import EMBEDDING_CACHE, SET_ASIDE
from tests.graph.harness import Project

INDEXED = ["corpus_embeddings", "vector_index"]


def _poison(project: Project, store: ArtifactStore, version: str) -> None:
    """Make the cache hold nothing but vectors that mean nothing, as the model's vectors of every passage."""
    shutil.rmtree(store.root / EMBEDDING_CACHE)
    passages = store.get(Passages, "passages", project.version("passages"))
    texts = sorted({passage.text for passage in passages.passages()})
    with encoders_for(store.root, project.profile.model).open(find_model(store, version)) as encoder:
        identity = encoder.identity("passage")
    vectors = np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    EmbeddingCache(store.root / EMBEDDING_CACHE).put(identity, [digest_text(text) for text in texts], vectors)


def test_an_index_of_wrong_vectors_is_not_switched_to(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store = ArtifactStore(Path(project.profile.artifact_root))
    before = current_index(store).version
    other = next(
        version
        for version in (project.version("base_model"), project.version("checkpoint"))
        if version != project.version("promoted_model")
    )
    _poison(project, store, other)
    project.promote(other)
    outcome = run_assets(project.defs, project.instance, INDEXED)
    assert not outcome.succeeded
    check = project.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("vector_index"), "index_is_fit"), limit=1
    )[0]
    event = check.event
    assert event is not None
    evaluation = event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert "the eval set's queries reach nDCG@10" in str(evaluation.metadata["problems"].value)
    assert current_index(store).version == before
    with open_searcher(store, project.profile.model) as searcher:
        assert searcher.search("the rotor of the pump").index == before
    made = project.version("vector_index")
    assert made not in store.versions("vector_index")  # not by a server of its model either
    assert (store.root / SET_ASIDE / "vector_index" / made / "index.json").exists()
    assert index_of(store, other) is None
    reasons = [asset.reasons for asset in project.plan(INDEXED).assets if asset.name == "vector_index"]
    assert reasons == [("it failed its check index_is_fit",)]
