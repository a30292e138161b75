"""A deleted document leaves the index at once, and every older version, vector and answer on request."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assets_pkg.automation.forgetting import forget_vectors, kept_after
from assets_pkg.automation.retention import StillNeeded, UnknownDocument, find_holders
from assets_pkg.cli import gc
from resources.chat_model.cache import AnswerCache
from storage.artifact_store import ArtifactStore
from storage.artifacts import Passages, QAPairs
from storage.digests import digest_text
from storage.formats.qa_records import read_records
from storage.paths import ANSWER_CACHE, EMBEDDING_CACHE
from tests.graph.harness import Project

HOLDERS = {
    "raw_corpus",
    "passages",
    "synthetic_qa",
    "training_set",
    "eval_set",
    "mined_train_set",
    "corpus_embeddings",
    "vector_index",
}


@pytest.fixture
def store(project: Project, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """That of the project, which is the working directory."""
    monkeypatch.chdir(project.profile_path.parent)
    return ArtifactStore(Path(project.profile.artifact_root))


def first_document() -> Path:
    return sorted(Path("documents").glob("*.md"))[0]


def cached_digests(store: ArtifactStore) -> set[str]:
    """The digests of all texts that the cache has vectors of."""
    with closing(sqlite3.connect(store.root / EMBEDDING_CACHE / "vectors.sqlite")) as cache:
        return {digest for (digest,) in cache.execute("SELECT digest FROM vectors")}


def own_texts(store: ArtifactStore, project: Project, name: str) -> set[str]:
    """Every passage and question of the document that a model may have embedded."""
    passages = store.get(Passages, "passages", project.version("passages"))
    texts = {each.text for each in passages.passages() if each.doc_id == name}
    pairs = store.get(QAPairs, "synthetic_qa", project.version("synthetic_qa"))
    for record in read_records(pairs.records):
        if record.file_name == [name]:
            texts |= {each.text for each in record.chunks}
            texts |= {each.question for each in record.deduplicated_qa_pairs}
    return texts


def keep_answer(store: ArtifactStore, text: str) -> None:
    answers = AnswerCache(store.root / ANSWER_CACHE)
    answers.put(b"key", {"text": text})
    answers.close()


def contents(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file below the folder as text, tables with their cells in the clear."""
    for path in root.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), default=str)
        else:
            yield path, path.read_bytes().decode("utf-8", "replace")


def test_nothing_of_a_document_is_left_below_the_root_once_it_left_the_corpus(
    project: Project,
    store: ArtifactStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = first_document()
    heading = document.read_text().splitlines()[2].removeprefix("## ")
    texts = own_texts(store, project, document.name)
    digests = {digest_text(text) for text in texts}
    assert len(digests & cached_digests(store)) >= 6  # three passages and their questions
    keep_answer(store, heading)
    with pytest.raises(StillNeeded, match=f"current and holds {document.name}"):
        list(find_holders(store, project.instance, document.name))

    document.unlink()
    project.run()
    assert any(heading in content for _, content in contents(store.root))
    current = {asset: project.version(asset) for asset in HOLDERS}
    others = cached_digests(store) - digests
    holders = list(find_holders(store, project.instance, document.name))
    assert {holder.asset for holder in holders} >= HOLDERS
    forget(project, document.name, monkeypatch)

    printed = " ".join(capsys.readouterr().out.split())
    assert "all kept answers of chat models are deleted" in printed
    assert "kept: 1 models that were trained on it" in printed
    assert "kept: samples in the metadata of runs" in printed
    assert [path for path, content in contents(store.root) if heading in content] == []
    assert cached_digests(store) == others
    assert {asset: project.version(asset) for asset in HOLDERS} == current
    assert all(store.has(asset, version) for asset, version in current.items())
    assert project.plan().to_run == []
    with pytest.raises(UnknownDocument):
        list(find_holders(store, project.instance, document.name))


@pytest.mark.parametrize("name", ["never-there.md", "documents/", ""])
def test_of_a_document_that_never_was_nothing_is_deleted(
    name: str, project: Project, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_answer(store, "kept")
    before = list(store.root.rglob("*"))
    vectors = cached_digests(store)
    with pytest.raises(UnknownDocument, match=r"holds '.*'; nothing was deleted"):
        forget(project, name, monkeypatch)
    assert set(store.root.rglob("*")) >= set(before)
    assert cached_digests(store) == vectors


def test_vectors_stay_where_no_version_tells_the_texts_and_that_is_said(
    project: Project, store: ArtifactStore
) -> None:
    document = first_document()
    document.unlink()
    project.run()
    holders = list(find_holders(store, project.instance, document.name))
    silent = [holder for holder in holders if holder.asset not in ("passages", "synthetic_qa")]
    before = cached_digests(store)
    assert forget_vectors(store, silent, document.name) == 0
    assert cached_digests(store) == before
    assert any("no version is left that shows which" in line for line in kept_after(store, silent))
    assert not any("no version is left that shows which" in line for line in kept_after(store, holders))


def forget(project: Project, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``retune forget`` in this process, with the project's history."""
    monkeypatch.setattr("assets_pkg.orchestration.instance.open_instance", lambda: Shared(project))
    gc.forget(name, config=str(project.profile_path))


class Shared:
    """The project's instance, which stays open."""

    def __init__(self, project: Project):
        self.instance = project.instance

    def __enter__(self) -> object:
        return self.instance

    def __exit__(self, *_: object) -> None:
        pass
