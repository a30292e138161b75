"""Checks of a new index before search switches to it: is it complete and sound, and does the eval set score through it
as it did when the model was evaluated?
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from assets_pkg.evaluation.report import read_run
from assets_pkg.reindex.searcher import QueryEncoder
from assets_pkg.retrieval.exact_search import BlockwiseSearch
from assets_pkg.retrieval.metrics import score_run
from resources.vector_store.base import PassageIndex
from storage.artifacts import CorpusEmbeddings, EvalReport, EvalSet, Passages
from storage.digests import passage_id
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.vectors import truncate

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

TOP = 10
"""The cut-off of recall and nDCG."""

SAMPLED_VECTORS = 64
VECTORS_AT_ONCE = 16_384
UNIT_TOLERANCE = 1e-3
SCORE_TOLERANCE = 1e-4

SAMPLED_QUERIES = 200
RUN_DEPTH = 100
"""Hits of a query that the evaluation recorded."""

RUN_DECIMALS = 6
SUFFIX_CHARS = 48
"""Texts that may end with one another are looked up by their last characters."""


@dataclass(frozen=True)
class IndexCheck:
    """The result of :func:`verify_index`; ``recall`` is recall@10 of the index against exact search, over a sample."""

    rows: int
    passages: int
    bad_vectors: int
    recall: float

    def problems(self, min_recall: float) -> list[str]:
        """Why search must not switch to the index; empty if it may."""
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
) -> IndexCheck:
    """Count rows, check every vector, and compare approximate with exact search for a sample of the corpus's vectors.

    Exact search covers the vectors of unit length; the others are counted as bad.
    """
    sample = _sample(embeddings)
    queries = truncate(sample[_sound(sample)], dimensions)
    exact = BlockwiseSearch(queries, TOP)
    bad = 0
    for block in _blocks(embeddings):
        sound = _sound(block)
        bad += int((~sound).sum())
        exact.add(truncate(block[sound], dimensions))
    retrieved = relevant = 0
    for query, scores in zip(queries, exact.found.scores, strict=True):
        hits = [hit.score for hit in index.search(query, TOP)] if len(scores) else []
        retrieved += min(len(scores), sum(score >= scores[-1] - SCORE_TOLERANCE for score in hits))
        relevant += len(scores)
    return IndexCheck(index.count(), passages.count(), bad, retrieved / relevant if relevant else 1.0)


def _sound(vectors: np.ndarray) -> np.ndarray:
    """Whether each vector is finite and of unit length: bool [n]."""
    import numpy as np

    return np.abs(np.linalg.norm(vectors, axis=1) - 1) <= UNIT_TOLERANCE


def _sample(embeddings: CorpusEmbeddings) -> np.ndarray:
    """Vectors spread evenly over the corpus, float32 [at most 64, d]; only the row groups that hold them are read."""
    import numpy as np
    import pyarrow.parquet as pq

    parts: list[np.ndarray] = []
    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        step = max(1, file.metadata.num_rows // SAMPLED_VECTORS)
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            wanted = range(-start % step, rows, step)
            if wanted:
                vectors = _matrix(
                    file.read_row_group(group, columns=["vector"]).combine_chunks().to_batches()[0]
                )
                parts.append(vectors[wanted])
            start += rows
    return np.concatenate(parts)[:SAMPLED_VECTORS]


def _blocks(embeddings: CorpusEmbeddings) -> Iterator[np.ndarray]:
    """Vectors, float32 [block, d]."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        for batch in file.iter_batches(batch_size=VECTORS_AT_ONCE, columns=["vector"]):
            yield _matrix(batch)


def _matrix(batch: pa.RecordBatch) -> np.ndarray:
    column: Any = batch.column("vector")
    return column.flatten().to_numpy().reshape(len(batch), -1)


@dataclass(frozen=True)
class EvaluationCheck:
    """Mean nDCG@10 over ``queries``, restricted to the passages that the eval set's corpus and the index share: in the
    evaluation (``measured_ndcg``) and through the index (``index_ndcg``)."""

    queries: int
    measured_ndcg: float
    index_ndcg: float

    def problem(self, tolerance: float) -> str | None:
        """Why search must not switch to the index, or None."""
        if not self.queries or self.measured_ndcg - self.index_ndcg <= tolerance:
            return None
        return (
            f"the eval set's queries reach nDCG@{TOP} {self.index_ndcg:.4f} through the index, but "
            f"{self.measured_ndcg:.4f} among the same passages when the model was evaluated: the loss exceeds "
            f"{tolerance:g}"
        )


NOTHING_TO_COMPARE = EvaluationCheck(0, 0.0, 0.0)


def measured_as(report: EvalReport, digest: str) -> str | None:
    """The name of the model with this digest in an evaluation report; None if it was not evaluated."""
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
) -> EvaluationCheck:
    """Search the index with the eval set's queries and compare with the run of the model ``name`` in ``report``.

    Queries without a relevant passage in both corpora are left out, and those for which either run holds fewer than
    ten shared passages. A document with the query's own id counts on neither side.

    Args:
        encoder: of the model ``name``.
    """
    shared = _shared(eval_set, passages)
    known = set(shared.values())
    qrels = {query: _judged(each, shared) for query, each in read_qrels(eval_set.beir).items()}
    qrels = _sample_queries({query: each for query, each in qrels.items() if any(each.values())})
    recorded = read_run(report, name)
    measured: dict[str, dict[str, float]] = {}
    indexed: dict[str, dict[str, float]] = {}
    for query, vector in _query_vectors(eval_set, qrels, encoder, dimensions).items():
        counted = known - {shared.get(query)}
        before = _top((shared[doc], score) for doc, score in recorded.get(query, []) if doc in shared)
        hits = index.search(vector, RUN_DEPTH)
        now = _top(
            (hit.passage_id, round(hit.score, RUN_DECIMALS)) for hit in hits if hit.passage_id in counted
        )
        if min(len(before), len(now)) == min(TOP, len(counted)):
            measured[query], indexed[query] = before, now
    if not measured:
        return NOTHING_TO_COMPARE
    compared = {query: qrels[query] for query in measured}
    ndcg = [score_run(run, compared, [TOP]).means()[f"NDCG@{TOP}"] for run in (measured, indexed)]
    return EvaluationCheck(len(measured), *ndcg)


def _shared(eval_set: EvalSet, passages: Passages) -> dict[str, str]:
    """Passage id by eval set document, for those that the index has: the passage has the same text, or ends with it
    and is at most twice as long. Memory grows with the eval set, not with the corpus."""
    by_text: dict[str, str] = {}
    by_suffix: dict[str, list[tuple[str, str]]] = {}
    for each in read_documents(eval_set.beir):
        by_text[each.doc_id] = passage_id(each.joined)
        by_suffix.setdefault(each.joined[-SUFFIX_CHARS:], []).append((each.doc_id, each.joined))
    wanted = set(by_text.values())
    equal: set[str] = set()
    found: dict[str, str] = {}
    for content, text in _texts(passages):
        if content in wanted:
            equal.add(content)
        for doc_id, suffix in by_suffix.get(text[-SUFFIX_CHARS:], ()):
            if text.endswith(suffix) and len(text) <= 2 * len(suffix):
                found.setdefault(doc_id, content)
    return found | {doc_id: content for doc_id, content in by_text.items() if content in equal}


def _texts(passages: Passages) -> Iterator[tuple[str, str]]:
    """Passage ids and texts."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(passages.path / "passages.parquet") as file:
        for batch in file.iter_batches(columns=["passage_id", "text"]):
            ids: Any = batch.column("passage_id").to_pylist()
            texts: Any = batch.column("text").to_pylist()
            yield from zip(ids, texts, strict=True)


def _judged(judged: Mapping[str, int], shared: Mapping[str, str]) -> dict[str, int]:
    """Judgements of shared passages; of two documents with equal texts the higher judgement counts."""
    found: dict[str, int] = {}
    for doc, score in judged.items():
        if doc in shared:
            found[shared[doc]] = max(score, found.get(shared[doc], 0))
    return found


def _sample_queries(qrels: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """At most 200 queries, spread evenly over the eval set."""
    step = max(1, len(qrels) // SAMPLED_QUERIES)
    return {query: qrels[query] for query in list(qrels)[::step][:SAMPLED_QUERIES]}


def _query_vectors(
    eval_set: EvalSet, qrels: Mapping[str, Any], encoder: QueryEncoder, dimensions: int
) -> dict[str, np.ndarray]:
    queries = {each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels}
    if not queries:
        return {}
    vectors = truncate(encoder.embed(list(queries.values()), "query"), dimensions)
    return dict(zip(queries, vectors, strict=True))


def _top(ranking: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The first ten different passages of a ranking."""
    found: dict[str, float] = {}
    for passage, score in ranking:
        found.setdefault(passage, score)
    return dict(islice(found.items(), TOP))
