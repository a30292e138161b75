"""Two projects on one Milvus: each keeps its own index, or gets an error that asks for another name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymilvus import MilvusClient

from assets_pkg.automation.retention import find_removals, remove
from assets_pkg.config.profile_files import load_profile
from assets_pkg.reindex.corpus_embedding import embed_passages
from assets_pkg.reindex.index import build_index, open_index
from assets_pkg.reindex.searcher import IndexReader
from resources.encoders.cached import CachedEncoder
from resources.vector_store.base import VectorStoreError
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Checkpoint, CorpusEmbeddings, Passage, Passages, VectorIndex
from storage.digests import passage_id
from storage.progress import no_progress
from tests.reindex.test_index import HashingEncoder

pytestmark = pytest.mark.slow


@dataclass
class Project:
    """An artifact root, and the name that its profile gives to what it keeps in Milvus."""

    root: Path
    name: str
    uri: str

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.root)

    def reindex(self, *texts: str) -> VectorIndex:
        """Index the texts, and switch to it."""
        settings = load_profile(
            "laptop", ["store=milvus", f"milvus_uri={self.uri}", f"milvus_collection={self.name}"]
        ).reindex
        rows = [
            Passage(passage_id(text), f"d{n}", 1, "", "", text, 0, 1, 1, 1) for n, text in enumerate(texts)
        ]

        def passages_into(folder: Path) -> None:
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), folder / "passages.parquet")

        def vectors_into(folder: Path) -> None:
            model = Checkpoint(self.root, "checkpoint", "m1")
            embed_passages(passages, model, CachedEncoder(HashingEncoder()), {}, folder, no_progress)

        inputs = {"texts": " ".join(texts)}
        passages = self.store.build(Passages, BuildKey("passages", "1", inputs), passages_into)
        vectors = self.store.build(CorpusEmbeddings, BuildKey("corpus_embeddings", "1", inputs), vectors_into)
        index = self.store.build(
            VectorIndex,
            BuildKey("vector_index", settings.digest(), inputs),
            lambda folder: build_index(passages, vectors, settings, folder, self.store),
        )
        open_index(index.path, index.describe()["place"]).activate()
        self.store.link("reindex/index", index.path)
        return index

    def clean_up(self) -> int:
        with dg.DagsterInstance.ephemeral() as instance:
            removals = list(find_removals(self.store, instance, keep=1))
        for removal in removals:
            remove(self.store, removal)
        return len(removals)

    def found(self) -> list[str]:
        """What Retune's own search finds, best first."""
        current = self.store.resolve("reindex/index")
        assert current is not None
        index = self.store.get(VectorIndex, "vector_index", current.name)
        return [hit.text for hit in IndexReader(index, HashingEncoder()).search("pump seal", 10).hits]

    def seen(self, alias: str) -> list[str]:
        """What any other client finds under the alias."""
        rows = MilvusClient(self.uri).query(alias, filter="chunk_id > 0", output_fields=["text"])
        return sorted(row["text"] for row in rows)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str, str], Project]:
    return lambda folder, name: Project(tmp_path / folder, name, str(tmp_path / "milvus.db"))


def test_each_keeps_its_own_through_reindexing_and_clean_ups(make: Callable[[str, str], Project]) -> None:
    one, other = make("one", "wiki"), make("other", "tickets")
    for project in (one, other):  # the same texts and model: only the project distinguishes their indexes
        project.reindex("pump seal", "kiln glaze")
    one.reindex("pump seal", "pump flow", "rotor seal")
    assert one.clean_up() >= 1
    assert other.clean_up() == 0
    assert other.found() == ["pump seal", "kiln glaze"]
    assert other.seen("tickets_current") == ["kiln glaze", "pump seal"]
    other.reindex("pump valve")
    assert other.clean_up() >= 1
    assert other.found() == other.seen("tickets_current") == ["pump valve"]
    assert sorted(one.found()) == one.seen("wiki_current") == ["pump flow", "pump seal", "rotor seal"]
    collections = MilvusClient(one.uri).list_collections()
    assert sorted(name.rpartition("_")[0] for name in collections) == ["tickets", "wiki"]


def test_the_name_of_another_project_is_refused_and_nothing_changes(
    make: Callable[[str, str], Project],
) -> None:
    one, other = make("one", "wiki"), make("other", "tickets")
    one.reindex("pump seal")
    other.reindex("kiln glaze")
    before = sorted(MilvusClient(one.uri).list_collections())
    other.name = "wiki"
    message = rf"alias wiki_current .* project at {one.root}: set reindex\.milvus_collection to another name"
    with pytest.raises(VectorStoreError, match=message):
        other.reindex("kiln glaze", "clay")
    assert sorted(MilvusClient(one.uri).list_collections()) == before
    assert (one.found(), one.seen("wiki_current")) == (["pump seal"], ["pump seal"])
    assert (other.found(), other.seen("tickets_current")) == (["kiln glaze"], ["kiln glaze"])


def test_a_project_that_moved_is_the_same_project(
    make: Callable[[str, str], Project], tmp_path: Path
) -> None:
    one = make("one", "wiki")
    one.reindex("pump seal")
    one.root = one.root.rename(tmp_path / "moved")
    one.reindex("pump flow")
    assert one.found() == one.seen("wiki_current") == ["pump flow"]
    assert one.clean_up() >= 1
    assert len(MilvusClient(one.uri).list_collections()) == 1
