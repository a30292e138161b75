"""Do the exam's queries find through the index what they found when the same model was measured?

The exam's corpus and the index's are not the same documents: files came and went since, and an exam may have
been brought along. A ranking among some documents does not depend on the others. So both rankings, the measured
one and the index's, are cut to the passages that both corpora have, and nDCG@10 is taken of each over the same
queries. It is the same unless the index holds other vectors than were measured (another model, prefix or length, a
server that computes differently), or loses neighbours.

A question made from a heading is cut out of the exam's copy of its passage. Such a copy is the end of the passage
that is indexed, whole, with its heading: that one is found as easily or more. So only a loss counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from assets_pkg.evaluation.metrics import score_run
from assets_pkg.evaluation.report import read_run
from assets_pkg.reindex.reader import QueryEncoder
from resources.vector_store.base import PassageIndex
from storage.artifacts import EvalReport, EvalSet, Passages
from storage.digests import passage_id
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.vectors import leading

if TYPE_CHECKING:
    import numpy as np

TOP = 10
DEPTH = 100
"""As deep as runs are kept."""

QUERIES = 200
"""Compared at most: evenly through the exam."""

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
            f"the exam's queries reach nDCG@{TOP} {self.index_ndcg:.4f} through the index, and among the same passages "
            f"{self.measured_ndcg:.4f} when the model was measured: more than {tolerance:g} is lost"
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
    exam: EvalSet,
    report: EvalReport,
    name: str,
) -> Agreement:
    """Ask the index the exam's queries and compare with the run of the model ``name`` in ``report``.

    Left out are queries without an answer in both corpora, and those where fewer than ten shared passages are
    among the hundred that either side kept.
    """
    shared = _shared(exam, passages)
    known = set(shared.values())
    wanted = min(TOP, len(known))
    qrels = {query: _judged(each, shared) for query, each in read_qrels(exam.beir).items()}
    qrels = _evenly({query: each for query, each in qrels.items() if any(each.values())})
    vectors = _embedded(exam, qrels, encoder, dimensions)
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
    before, now = (score_run(run, asked, [TOP]).means()[metric] for run in (measured, found))
    return Agreement(len(measured), before, now)


def _shared(exam: EvalSet, passages: Passages) -> dict[str, str]:
    """Passage by exam document, for those that the index has: of the same text, or of one that ends with it and is
    at most twice as long."""
    by_text: dict[str, str] = {}
    endings: dict[str, list[tuple[str, str]]] = {}
    for each in read_documents(exam.beir):
        by_text[each.doc_id] = passage_id(each.joined)
        endings.setdefault(each.joined[-ENDING:], []).append((each.doc_id, each.joined))
    asked = set(by_text.values())
    found: dict[str, str] = {}
    whole: set[str] = set()  # of those that the exam has: memory grows with the exam, not with the corpus
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
    exam: EvalSet, qrels: Mapping[str, Any], encoder: QueryEncoder, dimensions: int
) -> dict[str, np.ndarray]:
    queries = {each.query_id: each.text for each in read_queries(exam.beir) if each.query_id in qrels}
    if not queries:
        return {}
    vectors = leading(encoder.embed(list(queries.values()), "query"), dimensions)
    return dict(zip(queries, vectors, strict=True))


def _best(ranking: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The ten best different passages of a ranking, best first."""
    found: dict[str, float] = {}
    for passage, score in ranking:
        found.setdefault(passage, score)
    return dict(islice(found.items(), TOP))
