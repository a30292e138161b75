"""The graph with its index on a Milvus server, which may lose it, or hold another project's under the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymilvus import MilvusClient

from assets_pkg.automation.execute import run_assets
from assets_pkg.reindex.searched_index import current_index
from assets_pkg.reindex.searcher import open_searcher
from storage.artifact_store import ArtifactStore
from tests.graph.harness import Project

INDEXED = ["corpus_embeddings", "vector_index"]
QUERY = "the rotor of the pump"


def best(store: ArtifactStore, project: Project) -> tuple[str, str]:
    """The version that is searched, and the text that it finds."""
    with open_searcher(store, project.profile.model) as searcher:
        answer = searcher.search(QUERY, 1)
    return answer.index, answer.hits[0].text


def test_an_index_that_the_server_lost_is_made_again(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store, uri = ArtifactStore(Path(project.profile.artifact_root)), str(tmp_path / "milvus.db")
    _, text = best(store, project)
    moved = project.with_overrides("reindex.store=milvus", f"milvus_uri={uri}")
    moved.run(INDEXED)
    version = current_index(store).version
    assert best(store, moved) == (version, text)
    assert moved.stale(INDEXED) == []

    server = MilvusClient(uri)
    (collection,) = server.list_collections()
    server.drop_collection(collection)
    reasons = {asset.name: asset.reasons for asset in moved.plan(INDEXED).assets}
    assert reasons["vector_index"] == ("the server has the index no longer",)
    moved.run(INDEXED)
    assert server.describe_alias("retune_current")["collection_name"] == collection
    assert best(store, moved) == (version, text)
    assert moved.stale(INDEXED) == []


def test_a_name_that_another_project_uses_leaves_the_old_index_serving(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store, uri = ArtifactStore(Path(project.profile.artifact_root)), str(tmp_path / "milvus.db")
    before = best(store, project)
    server = MilvusClient(uri)
    server.create_collection("theirs", dimension=4)
    server.create_alias("theirs", "retune_current")
    moved = project.with_overrides("reindex.store=milvus", f"milvus_uri={uri}")
    outcome = run_assets(moved.defs, moved.instance, INDEXED)
    assert not outcome.succeeded
    assert "set reindex.milvus_collection to another name" in outcome.failures[0].message
    assert outcome.failures[0].trace == ""
    assert best(store, project) == before
    named = project.with_overrides("reindex.store=milvus", f"milvus_uri={uri}", "milvus_collection=handbooks")
    named.run(INDEXED)
    assert best(store, named)[1] == before[1]
    assert server.describe_alias("retune_current")["collection_name"] == "theirs"
    assert server.describe_alias("handbooks_current")["collection_name"].startswith("handbooks_")
