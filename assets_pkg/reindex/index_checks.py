"""Is a freshly built index fit to be searched? Asked before search switches to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from assets_pkg.evaluation.report import read_run
from assets_pkg.reindex.searcher import QueryEncoder
from assets_pkg.retrieval.metrics import score_run
from resources.vector_store.base import PassageIndex
from storage.artifacts import CorpusEmbeddings, EvalReport, EvalSet, Passages
from storage.digests import passage_id
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.vectors import truncate

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SAMPLE = 64
TOP = 10
BLOCK = 16_384
UNIT_TOLERANCE = 1e-3
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """What was found; ``recall`` is the share of the exact top 10 that the index finds, over a sample."""

    rows: int
    passages: int
    bad_vectors: int
    recall: float

    def problems(self, min_recall: float) -> list[str]:
        """Why the index must not be searched; empty when it may."""
        found: list[str] = []
        if self.rows != self.passages:
            found.append(f"{self.rows} rows for {self.passages} passages")
        if self.bad_vectors:
            found.append(f"{self.bad_vectors} vectors are not finite or not of unit length")
        if self.recall < min_recall:
            found.append(f"recall@{TOP} against exact search is {self.recall:.3f}, below {min_recall:g}")
        return found


def verify_index(
    index: PassageIndex, passages: Passages, embeddings: CorpusEmbeddings, dimensions: int
) -> Verdict:
    """Count rows, look at every vector, and compare searches with exact ones (queries: vectors of the corpus)."""
    import numpy as np

    queries = truncate(_sample(embeddings), dimensions)
    best = np.full((len(queries), TOP), -np.inf, dtype=np.float32)
    bad = 0
    for block in _blocks(embeddings):
        norms = np.linalg.norm(block, axis=1)
        bad += int((~(np.abs(norms - 1) <= UNIT_TOLERANCE)).sum())
        scores = np.concatenate([best, queries @ truncate(block, dimensions).T], axis=1)
        # Partitioning negatives leaves what is no number behind everything that is one.
        best = -np.partition(-scores, TOP - 1, axis=1)[:, :TOP]
    best = -np.sort(-best, axis=1)
    reached = found = 0
    for query, exact in zip(queries, best, strict=True):
        wanted = exact[np.isfinite(exact)]
        hits = [hit.score for hit in index.search(query, TOP)]
        reached += min(len(wanted), sum(score >= wanted[-1] - SCORE_TOLERANCE for score in hits))
        found += len(wanted)
    return Verdict(index.count(), passages.count(), bad, reached / found if found else 1.0)


def _sample(embeddings: CorpusEmbeddings) -> np.ndarray:
    """Vectors evenly through the corpus, float32 [at most SAMPLE, d]; only the row groups that hold them are read."""
    import numpy as np
    import pyarrow.parquet as pq

    taken: list[np.ndarray] = []
    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        step = max(1, file.metadata.num_rows // SAMPLE)
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            wanted = range(-start % step, rows, step)
            if wanted:
                vectors = _matrix(
                    file.read_row_group(group, columns=["vector"]).combine_chunks().to_batches()[0]
                )
                taken.append(vectors[wanted])
            start += rows
    return np.concatenate(taken)[:SAMPLE]


def _blocks(embeddings: CorpusEmbeddings) -> Iterator[np.ndarray]:
    """Vectors, float32 [block, d]."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        for batch in file.iter_batches(batch_size=BLOCK, columns=["vector"]):
            yield _matrix(batch)


def _matrix(batch: pa.RecordBatch) -> np.ndarray:
    column: Any = batch.column("vector")
    return column.flatten().to_numpy().reshape(len(batch), -1)


TOP_COMPARED = 10
DEPTH = 100
"""As deep as runs are kept."""

QUERIES = 200
"""Compared at most: evenly through the eval set."""

DECIMALS = 6
ENDING = 48
"""Characters that texts are looked up by."""


@dataclass(frozen=True)
class Agreement:
    """Mean nDCG@10 over ``queries`` among the passages that both corpora have, as measured and through the index."""

    queries: int
    measured_ndcg: float
    index_ndcg: float

    def problem(self, tolerance: float) -> str | None:
        """Why the index must not be searched, or None."""
        if not self.queries or self.measured_ndcg - self.index_ndcg <= tolerance:
            return None
        return (
            f"the eval set's queries reach nDCG@{TOP} {self.index_ndcg:.4f} through the index, and among the same "
            f"passages {self.measured_ndcg:.4f} when the model was measured: more than {tolerance:g} is lost"
        )


NOTHING_TO_COMPARE = Agreement(0, 0.0, 0.0)


def measured_as(report: EvalReport, digest: str) -> str | None:
    """The name under which a report measured the model with this digest."""
    models: dict[str, str] = report.results()["metadata"]["models"]
    return next((name for name, measured in models.items() if measured == digest), None)


def compare_with_measurement(
    index: PassageIndex,
    dimensions: int,
    passages: Passages,
    encoder: QueryEncoder,
    eval_set: EvalSet,
    report: EvalReport,
    name: str,
) -> Agreement:
    """Ask the index the eval set's queries and compare with the run of the model ``name`` in ``report``.

    Left out are queries without an answer in both corpora, and those where fewer than ten shared passages are
    among the hundred that either side kept.
    """
    shared = _shared(eval_set, passages)
    known = set(shared.values())
    wanted = min(TOP_COMPARED, len(known))
    qrels = {query: _judged(each, shared) for query, each in read_qrels(eval_set.beir).items()}
    qrels = _evenly({query: each for query, each in qrels.items() if any(each.values())})
    vectors = _embedded(eval_set, qrels, encoder, dimensions)
    recorded = read_run(report, name)
    measured: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    for query, vector in vectors.items():
        there = _best((shared[doc], score) for doc, score in recorded.get(query, []) if doc in shared)
        hits = index.search(vector, DEPTH)
        here = _best((hit.passage_id, round(hit.score, DECIMALS)) for hit in hits if hit.passage_id in known)
        if min(len(there), len(here)) == wanted:
            measured[query], found[query] = there, here
    if not measured:
        return NOTHING_TO_COMPARE
    asked = {query: qrels[query] for query in measured}
    metric = f"NDCG@{TOP}"
    before, now = (score_run(run, asked, [TOP_COMPARED]).means()[metric] for run in (measured, found))
    return Agreement(len(measured), before, now)


def _shared(eval_set: EvalSet, passages: Passages) -> dict[str, str]:
    """Passage by eval set document, for those that the index has: of the same text, or of one that ends with it and is
    at most twice as long."""
    by_text: dict[str, str] = {}
    endings: dict[str, list[tuple[str, str]]] = {}
    for each in read_documents(eval_set.beir):
        by_text[each.doc_id] = passage_id(each.joined)
        endings.setdefault(each.joined[-ENDING:], []).append((each.doc_id, each.joined))
    asked = set(by_text.values())
    found: dict[str, str] = {}
    whole: set[str] = (
        set()
    )  # of those that the eval set has: memory grows with the eval set, not with the corpus
    for content, text in _texts(passages):
        if content in asked:
            whole.add(content)
        for doc_id, copy in endings.get(text[-ENDING:], ()):
            if text.endswith(copy) and len(text) <= 2 * len(copy):
                found.setdefault(doc_id, content)
    return found | {doc_id: content for doc_id, content in by_text.items() if content in whole}


def _texts(passages: Passages) -> Iterator[tuple[str, str]]:
    """Passage ids and texts."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(passages.path / "passages.parquet") as file:
        for batch in file.iter_batches(columns=["passage_id", "text"]):
            ids: Any = batch.column("passage_id").to_pylist()
            texts: Any = batch.column("text").to_pylist()
            yield from zip(ids, texts, strict=True)


def _judged(judged: Mapping[str, int], shared: Mapping[str, str]) -> dict[str, int]:
    """Judgements of shared passages; of two documents with one text the better one counts."""
    found: dict[str, int] = {}
    for doc, score in judged.items():
        if doc in shared:
            found[shared[doc]] = max(score, found.get(shared[doc], 0))
    return found


def _evenly(qrels: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    step = max(1, len(qrels) // QUERIES)
    return {query: qrels[query] for query in list(qrels)[::step][:QUERIES]}


def _embedded(
    eval_set: EvalSet, qrels: Mapping[str, Any], encoder: QueryEncoder, dimensions: int
) -> dict[str, np.ndarray]:
    queries = {each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels}
    if not queries:
        return {}
    vectors = truncate(encoder.embed(list(queries.values()), "query"), dimensions)
    return dict(zip(queries, vectors, strict=True))


def _best(ranking: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The ten best different passages of a ranking, best first."""
    found: dict[str, float] = {}
    for passage, score in ranking:
        found.setdefault(passage, score)
    return dict(islice(found.items(), TOP_COMPARED))
