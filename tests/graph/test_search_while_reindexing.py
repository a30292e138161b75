"""Fifty searches a second while the index is replaced and the old one deleted: each is answered, by one version."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from assets_pkg.automation.retention import find_removals
from assets_pkg.reindex.searched_index import current_index
from assets_pkg.reindex.searcher import Answer, Searcher, find_model, open_searcher
from storage.artifact_store import ArtifactStore
from storage.artifacts import Passages
from tests.graph.harness import Project

REINDEX = "reindex_when_model_or_corpus_changes"
QUERIES = ["the rotor of the pump", "glaze and firing", "cargo and tide"]
THREADS = 5
A_SECOND = 50
DEADLINE_S = 120


@dataclass
class Load:
    """Threads that search ``A_SECOND`` times a second, and keep every answer and failure."""

    searcher: Searcher
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        turn = 0
        while not self.stop.wait(THREADS / A_SECOND):
            query = QUERIES[(number + turn) % len(QUERIES)]
            turn += 1
            try:
                self.answers.append((query, self.searcher.search(query, 5)))
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)

    def await_answers_by(self, version: str, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while sum(answer.index == version for _, answer in list(self.answers)) < count:
            assert time.monotonic() < deadline, f"no answers by {version}: {self.failures[:1]}"
            time.sleep(0.02)


def _expected(project: Project, store: ArtifactStore) -> dict[str, np.ndarray]:
    """The best five scores of every query, by brute force with the promoted model."""
    described = current_index(store).describe()
    rows = store.get(Passages, "passages", described["passages"]).passages()
    model = SentenceTransformer(str(find_model(store, described["model_digest"]).model), device="cpu")
    model.max_seq_length = project.profile.model.passage_max_length
    vectors = model.encode([row.text for row in rows])
    return {query: np.sort(vectors @ model.encode(query))[::-1][:5] for query in QUERIES}


def test_searches_go_on_while_the_index_is_replaced_and_the_old_one_deleted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store = ArtifactStore(Path(project.profile.artifact_root))
    other = next(
        version
        for version in (project.version("base_model"), project.version("checkpoint"))
        if version != project.version("promoted_model")
    )
    before = current_index(store).version
    expected = {before: _expected(project, store)}
    models = {before: project.version("promoted_model")}
    with open_searcher(store, project.profile.model, check_every_s=0.1) as searcher:
        load = Load(searcher)
        threads = [threading.Thread(target=load.run, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            load.await_answers_by(before, 20)
            project.promote(other)
            assert project.tick(REINDEX) == ["corpus_embeddings", "vector_index"]
            for removal in find_removals(store, project.instance, keep=1):
                store.remove(removal.asset, removal.version)
            after = current_index(store).version
            load.await_answers_by(after, 100)
        finally:
            load.stop.set()
            for thread in threads:
                thread.join()
    assert not store.versions("vector_index")[1:]
    expected[after] = _expected(project, store)
    models[after] = other
    assert load.failures == []
    assert {answer.index for _, answer in load.answers} == {before, after}
    for query, answer in load.answers:
        assert answer.model == models[answer.index]
        np.testing.assert_allclose(
            [hit.score for hit in answer.hits], expected[answer.index][query], atol=1e-4
        )


def test_an_index_deleted_under_a_searcher_that_never_looked_is_replaced_by_the_search_itself(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    store = ArtifactStore(Path(project.profile.artifact_root))
    document = sorted(Path("documents").glob("*.md"))[0]
    before = current_index(store).version
    with open_searcher(store, project.profile.model, check_every_s=3600) as searcher:
        assert searcher.search(QUERIES[0]).index == before
        document.unlink()
        project.tick("corpus_when_documents_change")
        project.tick(REINDEX)
        assert searcher.search(QUERIES[0]).index == before
        store.remove("vector_index", before)
        answer = searcher.search(QUERIES[0], 50)
    assert answer.index == current_index(store).version
    assert document.name not in {hit.doc_id for hit in answer.hits}
