"""Whatever is promoted, changed, deleted and rolled back in whatever order, and whenever the re-index is killed: once
the sensors have settled, search gives what an index built from scratch would, by the promoted model, and the embedding
server serves that model."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from assets_pkg.automation.retention import find_removals, remove
from assets_pkg.deploy.deploy import read_state, stop_deployed
from assets_pkg.deploy.server_state import served_digest
from assets_pkg.reindex.searched_index import current_index, disagreements
from assets_pkg.reindex.searcher import find_model, open_searcher
from storage.artifact_store import ArtifactStore
from storage.artifacts import Passages
from storage.paths import STATE_FOLDER
from tests.graph.harness import Project
from tests.graph.killed import KILLED, Ticker
from tests.loopback import free_port

STATE = Path("output") / STATE_FOLDER
OPERATIONS = 16
SETTLE_EVERY = 8
KILLS = 3
QUERIES = ["the rotor of the pump", "glaze and firing", "a changed sentence about cargo"]
CORPUS, REINDEX = "corpus_when_documents_change", "reindex_when_model_or_corpus_changes"
DEPLOY = "deploy_when_model_changes"


def test_search_after_random_operations_and_kills_equals_an_index_built_from_scratch(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    project = project.with_overrides(f"deploy.host_port={free_port()}")
    project.run(["onnx_model", "running_nim"])
    story = Story(project, random.Random(20), [project.version("base_model"), project.version("checkpoint")])
    operations = [story.promote, story.roll_back, story.tick_corpus, story.tick_reindex]
    operations += 4 * [story.change] + 2 * [story.delete]
    killings = set(story.rng.sample(range(OPERATIONS), KILLS))
    try:
        for number in range(OPERATIONS):
            if number in killings:
                story.kill(number)
            else:
                story.rng.choice(operations)()
            if number % SETTLE_EVERY == SETTLE_EVERY - 1:
                story.settle()
    finally:
        stop_deployed(STATE)
    assert story.killed >= KILLS // 2


@dataclass
class Story:
    """What happens to the project."""

    project: Project
    rng: random.Random
    models: list[str]
    killed: int = 0
    touches: int = 0
    changes: int = 0

    def promote(self) -> None:
        self.project.promote(self.rng.choice(self.models))

    def roll_back(self) -> None:
        """Whatever is promoted, the other model is it again."""
        now = self.project.version("promoted_model")
        self.project.promote(next(model for model in self.models if model != now))

    def change(self) -> None:
        self.changes += 1
        path = self.rng.choice(_documents())
        sentence = f"A changed sentence about cargo and tide, number {self.changes}, stands here."
        path.write_text(f"{path.read_text()}\n{sentence}\n")

    def delete(self) -> None:
        if len(_documents()) > 20:
            self.rng.choice(_documents()).unlink()

    def tick_corpus(self) -> None:
        self.project.tick(CORPUS)

    def tick_reindex(self) -> None:
        self.project.tick(REINDEX)

    def kill(self, number: int) -> None:
        """A re-index that has something to do, killed anywhere between its first and its last file."""
        self.roll_back()
        ticker = Ticker(self.project)
        if not self.touches:
            code, self.touches = ticker.tick(REINDEX, die_at=0)
            assert code == 0
            return
        code, _ = ticker.tick(REINDEX, die_at=self.rng.randint(1, self.touches))
        assert code in (0, KILLED)
        self.killed += code == KILLED

    def settle(self) -> None:
        self.project.tick(CORPUS)
        self.project.tick(REINDEX)
        self.project.tick(DEPLOY)
        store = ArtifactStore(Path(self.project.profile.artifact_root))
        _check(self.project, store)
        for removal in find_removals(store, self.project.instance, keep=1):
            if removal.asset == "vector_index":
                remove(store, removal)


def _documents() -> list[Path]:
    return sorted(Path("documents").glob("*.md"))


def _check(project: Project, store: ArtifactStore) -> None:
    described = current_index(store).describe()
    assert described["model_digest"] == project.version("promoted_model")
    assert described["passages"] == project.version("passages")
    server = read_state(STATE)
    assert server is not None
    assert served_digest(server.url) == project.version("promoted_model")
    assert disagreements(store) == []
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
