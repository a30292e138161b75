"""Embeddings and index of a small corpus, against brute force; and an unfit index is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.reindex import ReindexSettings
from assets_pkg.reindex.corpus_embedding import embed_passages
from assets_pkg.reindex.index import IndexMismatch, build_index
from assets_pkg.reindex.index_checks import _sample, verify_index
from assets_pkg.reindex.searcher import IndexReader
from assets_pkg.retrieval.search_method import SearchMethod
from resources.encoders.base import Role
from resources.encoders.cached import CachedEncoder
from resources.vector_store.lance import LanceIndex
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, CorpusEmbeddings, Passage, Passages, VectorIndex
from storage.digests import passage_id
from storage.embedding_cache import EmbeddingCache
from storage.progress import Progress, no_progress
from tests.conftest import TOPICS

DIMENSIONS = 64
SETTINGS = load_profile("laptop").reindex
WORDS = [word for words in TOPICS.values() for word in words]


class HashingEncoder:
    """Words hashed into a vector: a true encoder that needs no model."""

    dimensions = DIMENSIONS

    def __init__(self) -> None:
        self.vectorizer = HashingVectorizer(n_features=DIMENSIONS, norm="l2", alternate_sign=False)

    def identity(self, role: Role) -> str:
        return f"hashing-{role}"

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
        return self.vectorizer.transform(texts).toarray().astype(np.float32)


@pytest.fixture
def passages(tmp_path: Path) -> Passages:
    """5,000 passages in more than one block, every hundredth a repetition of the first."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(5000):
        text = "pump seal" if number % 100 == 0 else " ".join(rng.choice(WORDS, 6)) + f" n{number}"
        words = len(text.split())
        rows.append(
            asdict(
                Passage(
                    passage_id(text), f"d{number // 10}", number % 10 + 1, "t", "s", text, 0, words, 1, words
                )
            )
        )
    folder = tmp_path / "passages"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "passages.parquet")
    return Passages(folder, "passages", "v1")


@pytest.fixture
def embeddings(passages: Passages, tmp_path: Path) -> CorpusEmbeddings:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    model = Checkpoint(tmp_path, "checkpoint", "m1")
    embed_passages(passages, model, CachedEncoder(HashingEncoder()), {}, folder, no_progress)
    return CorpusEmbeddings(folder, "corpus_embeddings", "e1")


def test_progress_tells_from_the_start_what_is_cached_of_the_whole_corpus(
    passages: Passages, tmp_path: Path
) -> None:
    """Of 4,951 texts (50 passages have the same one) 800 of the second block are cached."""

    class Reporting(HashingEncoder):
        def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
            progress(len(texts), len(texts), "texts")
            return super().embed(texts, role)

    encoder = CachedEncoder(Reporting(), EmbeddingCache(tmp_path / "cache"))
    texts = pq.read_table(passages.path / "passages.parquet").column("text").to_pylist()
    last = [text for text in texts if text != "pump seal"][-800:]
    encoder.embed(last, "passage")
    seen: list[tuple[int, int, float]] = []

    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        seen.append((done, total, figures["cached"]))

    def embed(name: str) -> None:
        (tmp_path / name).mkdir()
        embed_passages(
            passages, Checkpoint(tmp_path, "checkpoint", "m1"), encoder, {}, tmp_path / name, progress
        )

    embed("embeddings")
    computed = len(set(texts)) - 800
    assert {(total, cached) for _, total, cached in seen} == {(5000, 800)}
    assert seen[0][0] == 800
    assert seen[-2][0] == 800 + computed
    assert seen[-1][0] == 5000
    assert sorted(seen) == seen
    seen.clear()
    embed("again")
    assert seen == [(5000, 5000, 5000)]


def build(
    passages: Passages, embeddings: CorpusEmbeddings, folder: Path, settings: ReindexSettings
) -> VectorIndex:
    folder.mkdir()
    build_index(passages, embeddings, settings, folder, ArtifactStore(folder.parent))
    return VectorIndex(folder, "vector_index", "i1")


@pytest.mark.slow
def test_search_over_the_index_equals_brute_force_over_all_passages(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    described = index.describe()
    assert (described["rows"], described["model_digest"], described["passages"]) == (5000, "m1", "v1")
    encoder, texts = HashingEncoder(), [passage.text for passage in passages.passages()]
    scores = encoder.embed(texts, "passage") @ encoder.embed(["kiln glaze n4711"], "query")[0]
    hits = IndexReader(index, encoder).search("kiln glaze n4711", 5).hits
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], atol=1e-5)
    assert hits[0].text == texts[int(np.argmax(scores))]


@pytest.mark.slow
def test_fewer_dimensions_are_cut_and_renormalised(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"dimensions": 32})
    index = build(passages, embeddings, tmp_path / "index", settings)
    encoder, texts = HashingEncoder(), [passage.text for passage in passages.passages()]
    cut = encoder.embed(texts, "passage")[:, :32]
    cut /= np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-30)
    query = encoder.embed([" ".join(WORDS)], "query")[0][:32]
    expected = np.sort(cut @ (query / np.linalg.norm(query)))[::-1][:5]
    hits = IndexReader(index, encoder).search(" ".join(WORDS), 5).hits
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)


@pytest.mark.slow
def test_a_sound_index_passes_and_planted_faults_are_named(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    opened = LanceIndex(index.path / "lancedb")
    assert verify_index(opened, passages, embeddings, DIMENSIONS).problems(0.99) == []

    table = pq.read_table(embeddings.path / "embeddings.parquet")
    vectors = np.stack(table.column("vector").to_numpy(zero_copy_only=False)).copy()
    vectors[7] = np.nan
    vectors[8] *= 2
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSIONS)
    broken = pa.table({"passage_id": table.column("passage_id"), "vector": column})
    pq.write_table(broken, embeddings.path / "embeddings.parquet")
    found = verify_index(opened, passages, embeddings, DIMENSIONS)
    assert found.bad_vectors == 2

    short = Passages(passages.path, "passages", "v1")
    pq.write_table(
        pq.read_table(passages.path / "passages.parquet").slice(0, 4999), passages.path / "passages.parquet"
    )
    assert "5000 rows for 4999 passages" in verify_index(opened, short, embeddings, DIMENSIONS).problems(0)


@pytest.mark.slow
def test_bad_vectors_neither_query_nor_count_as_neighbours(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    """The first vector is sampled as a query, and the others are neighbours of sampled ones."""
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    table = pq.read_table(embeddings.path / "embeddings.parquet")
    vectors = np.stack(table.column("vector").to_numpy(zero_copy_only=False)).copy()
    vectors[:64] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSIONS)
    broken = pa.table({"passage_id": table.column("passage_id"), "vector": column})
    pq.write_table(broken, embeddings.path / "embeddings.parquet")
    found = verify_index(LanceIndex(index.path / "lancedb"), passages, embeddings, DIMENSIONS)
    assert (found.bad_vectors, found.recall) == (64, 1.0)


def test_queries_of_the_check_are_taken_evenly_and_little_is_read_for_them(tmp_path: Path) -> None:
    """Row groups of many sizes; all but a few are damaged, and those few hold the sample."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6400, 8)).astype(np.float32)
    sizes = [1, 99, 250, 3, *([20] * 300), 47]
    sizes.append(len(vectors) - sum(sizes))
    file = tmp_path / "embeddings.parquet"
    schema = pa.schema([("vector", pa.list_(pa.float32(), 8))])
    with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        start = 0
        for size in sizes:
            part = pa.FixedSizeListArray.from_arrays(pa.array(vectors[start : start + size].reshape(-1)), 8)
            writer.write_table(pa.table({"vector": part}, schema=schema))
            start += size
    content = bytearray(file.read_bytes())
    metadata, start = pq.ParquetFile(file).metadata, 0
    for group, size in enumerate(sizes):
        if not any((start + row) % 100 == 0 for row in range(size)):
            column = metadata.row_group(group).column(0)
            place = column.data_page_offset
            content[place : place + column.total_compressed_size] = bytes(column.total_compressed_size)
        start += size
    file.write_bytes(content)
    with pytest.raises(OSError, match="deserialize"):
        pq.read_table(file)
    np.testing.assert_array_equal(
        _sample(CorpusEmbeddings(tmp_path, "corpus_embeddings", "e1")), vectors[::100]
    )


@pytest.mark.slow
def test_what_a_killed_try_had_finished_is_not_made_again(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    class Never(HashingEncoder):
        def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> np.ndarray:
            raise AssertionError("embedded again")

    model = Checkpoint(tmp_path, "checkpoint", "m1")
    embed_passages(passages, model, CachedEncoder(Never()), {}, embeddings.path, no_progress)
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    before = {each: each.stat().st_mtime_ns for each in index.path.rglob("*")}
    build_index(passages, embeddings, SETTINGS, index.path, ArtifactStore(tmp_path))
    assert {each: each.stat().st_mtime_ns for each in index.path.rglob("*")} == before


def test_what_a_killed_try_left_half_done_is_made_anew(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    whole = {each.name: each.read_bytes() for each in embeddings.path.iterdir()}
    (embeddings.path / "embeddings.json").unlink()
    torn = embeddings.path / "embeddings.parquet"
    torn.write_bytes(torn.read_bytes()[:1000])
    model = Checkpoint(tmp_path, "checkpoint", "m1")
    embed_passages(passages, model, CachedEncoder(HashingEncoder()), {}, embeddings.path, no_progress)
    assert {each.name: each.read_bytes() for each in embeddings.path.iterdir()} == whole


@pytest.mark.slow
def test_hybrid_search_finds_a_rare_word_that_vectors_blur(
    passages: Passages, embeddings: CorpusEmbeddings, tmp_path: Path
) -> None:
    index = build(passages, embeddings, tmp_path / "index", SETTINGS)
    reader = IndexReader(index, HashingEncoder())
    assert "n4711" in reader.search("n4711", 3, method=SearchMethod("rrf")).hits[0].text
    narrowed = reader.search("kiln", 5, where="doc_id = 'd7'", method=SearchMethod("rrf")).hits
    assert {found.doc_id for found in narrowed} == {"d7"}


@pytest.mark.slow
def test_embeddings_of_other_passages_are_refused(embeddings: CorpusEmbeddings, tmp_path: Path) -> None:
    other = Passages(tmp_path / "passages", "passages", "v2")
    with pytest.raises(IndexMismatch, match="of passages v1, not of v2"):
        build(other, embeddings, tmp_path / "index", SETTINGS)
