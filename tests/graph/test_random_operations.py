"""Whatever is promoted, changed, deleted and rolled back in whatever order: once the sensors have settled, search
gives what an index built from scratch would, by the promoted model."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from assets_pkg.reindex.searcher import current_index, find_model, open_searcher
from storage.artifact_store import ArtifactStore
from storage.artifacts import Passages
from tests.graph.harness import Project

OPERATIONS = 60
QUERIES = ["the rotor of the pump", "glaze and firing", "a changed sentence about cargo"]
CORPUS, REINDEX = "corpus_when_documents_change", "reindex_when_model_or_corpus_changes"


def test_search_after_random_operations_equals_an_index_built_from_scratch(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    rng = random.Random(20)
    models = [project.version("base_model"), project.version("checkpoint")]
    settled = 0
    for number in range(OPERATIONS):
        operation = rng.choice(["promote", "change", "delete", "corpus tick", "re-index tick"])
        if operation == "promote":
            project.promote(rng.choice(models))
        elif operation == "change":
            _change(rng, number)
        elif operation == "delete":
            _delete(rng)
        else:
            project.tick(CORPUS if operation == "corpus tick" else REINDEX)
        if number % 12 == 11:
            project.tick(CORPUS)
            project.tick(REINDEX)
            _check(project)
            settled += 1
    assert settled == OPERATIONS // 12


def _documents() -> list[Path]:
    return sorted(Path("documents").glob("*.md"))


def _change(rng: random.Random, number: int) -> None:
    path = rng.choice(_documents())
    path.write_text(
        f"{path.read_text()}\nA changed sentence about cargo and tide, number {number}, stands here.\n"
    )


def _delete(rng: random.Random) -> None:
    if len(_documents()) > 20:
        rng.choice(_documents()).unlink()


def _check(project: Project) -> None:
    store = ArtifactStore(Path(project.profile.artifact_root))
    described = current_index(store).describe()
    assert described["model_digest"] == project.version("promoted_model")
    assert described["passages"] == project.version("passages")
    rows = list(store.get(Passages, "passages", described["passages"]).passages())
    assert {row.doc_id for row in rows} == {path.name for path in _documents()}

    model = SentenceTransformer(str(find_model(store, described["model_digest"]).model), device="cpu")
    model.max_seq_length = project.profile.model.passage_max_length
    vectors = model.encode([row.text for row in rows])
    with open_searcher(store, project.profile.model) as searcher:
        for query in QUERIES:
            scores = vectors @ model.encode(query)
            found = [hit.score for hit in searcher.search(query, 5).hits]
            np.testing.assert_allclose(found, np.sort(scores)[::-1][:5], atol=1e-4)
