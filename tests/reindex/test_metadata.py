"""Documents' own fields become columns of the index, in both stores, and the same filter works on both."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.corpus.passages import split_passages
from assets_pkg.corpus.sources import read_corpus
from assets_pkg.reindex.corpus_embedding import embed_passages
from assets_pkg.reindex.index import build_index
from assets_pkg.reindex.searcher import IndexReader
from resources.encoders.cached import CachedEncoder
from resources.vector_store.base import VectorStoreError
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, Corpus, CorpusEmbeddings, Passages, VectorIndex
from storage.progress import no_progress
from tests.reindex.test_index import HashingEncoder

FRONT = {
    "a.md": {"lang": "de", "year": 2019, "weight": 0.5, "draft": "true", "tags": "[pump, valve]"},
    "b.md": {"lang": "en", "year": 2021, "weight": 2, "draft": "false", "tags": "[kiln]"},
    "c.md": {"lang": "it's", "year": 2023, "draft": "false"},
    "d.md": {},
}


@pytest.fixture(params=["lancedb", pytest.param("milvus", marks=pytest.mark.slow)])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> IndexReader:
    (tmp_path / "docs").mkdir()
    for name, fields in FRONT.items():
        front = "".join(f"{key}: {value}\n" for key, value in fields.items())
        text = f"The pump and its valve are looked at once a year, says {name}.\n"
        (tmp_path / "docs" / name).write_text((f"---\n{front}---\n" if fields else "") + text)
    changes = [
        f"corpus_dir={tmp_path / 'docs'}",
        f"reindex.store={request.param}",
        f"milvus_uri={tmp_path / 'm.db'}",
    ]
    profile = load_profile("laptop", [*changes, "min_text_length=1"])
    for name in ("corpus", "passages", "embeddings", "index"):
        (tmp_path / name).mkdir()
    read_corpus(profile.corpus, tmp_path / "corpus")
    corpus = Corpus(tmp_path / "corpus", "raw_corpus", "c1")
    split_passages(corpus, profile.passages, tmp_path / "passages")
    passages = Passages(tmp_path / "passages", "passages", "p1")
    model = Checkpoint(tmp_path, "checkpoint", "m1")
    embed_passages(passages, model, CachedEncoder(HashingEncoder()), {}, tmp_path / "embeddings", no_progress)
    embeddings = CorpusEmbeddings(tmp_path / "embeddings", "corpus_embeddings", "e1")
    build_index(passages, embeddings, profile.reindex, tmp_path / "index", ArtifactStore(tmp_path))
    return IndexReader(VectorIndex(tmp_path / "index", "vector_index", "i1"), HashingEncoder())


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("lang = 'de'", "a"),
        ("lang = 'it''s'", "c"),
        ("lang IN ('de', 'en')", "ab"),
        ("(lang <> 'de') AND year >= 2021", "bc"),
        ("NOT (year = 2021 OR year = 2023)", "a"),
        ("weight > 0.4 AND draft = false", "b"),
        ("array_contains(tags, 'valve')", "a"),
        ("lang IS NULL", "d"),
    ],
)
def test_one_filter_for_both_stores(reader: IndexReader, where: str, expected: str) -> None:
    found = reader.search("the pump", 10, where).hits
    assert sorted(hit.doc_id for hit in found) == [f"{name}.md" for name in expected]


def test_a_hit_shows_the_fields_that_its_document_has(reader: IndexReader) -> None:
    found = {hit.doc_id: dict(hit.metadata) for hit in reader.search("the pump", 10).hits}
    assert found == {
        "a.md": {"lang": "de", "year": 2019, "weight": 0.5, "draft": True, "tags": ["pump", "valve"]},
        "b.md": {"lang": "en", "year": 2021, "weight": 2.0, "draft": False, "tags": ["kiln"]},
        "c.md": {"lang": "it's", "year": 2023, "draft": False},
        "d.md": {},
    }
    hit = reader.search("the pump", 1).hits[0]
    assert dataclasses.asdict(hit)["metadata"] == dict(hit.metadata)


def test_a_filter_on_a_field_that_no_document_has_is_a_clear_error(reader: IndexReader) -> None:
    with pytest.raises(VectorStoreError, match="language"):
        reader.search("the pump", 10, "language = 'de'")
