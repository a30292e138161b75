"""A deleted document leaves the index at once, and every older version on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.automation.retention import StillNeeded, find_holders
from storage.artifact_store import ArtifactStore
from tests.graph.harness import Project

TEXT_HOLDERS = {
    "raw_corpus",
    "passages",
    "synthetic_qa",
    "training_set",
    "eval_set",
    "mined_train_set",
    "vector_index",
}


def test_a_document_is_forgotten_once_it_left_the_corpus(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store = ArtifactStore(Path(project.profile.artifact_root))
    document = sorted(Path("documents").glob("*.md"))[0]
    words = document.read_text().splitlines()[2].removeprefix("## ").encode()
    with pytest.raises(StillNeeded, match=f"current and holds {document.name}"):
        list(find_holders(store, project.instance, document.name))

    document.unlink()
    project.run()
    holders = list(find_holders(store, project.instance, document.name))
    assert {holder.asset for holder in holders} >= TEXT_HOLDERS
    for holder in holders:
        store.remove(holder.asset, holder.version)
    assert list(find_holders(store, project.instance, document.name)) == []
    for path in (store.root / "artifacts").rglob("*.json*"):
        assert words not in path.read_bytes(), path
    assert project.plan().to_run == []
