"""Retrieval metrics per query, computed by trec_eval's own code through ``ir_measures``.

Its semantics: nDCG with linear gains; equal scores in descending order of document id, whatever order they
came in; documents without a judgement are not relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets_pkg.retrieval.errors import RetrievalError

if TYPE_CHECKING:
    from ir_measures.measures import Measure
    from numpy.typing import NDArray

Run = Mapping[str, Mapping[str, float]]
"""Scores by query id and document id; the best of each query."""

FAMILIES = ("NDCG", "MAP", "Recall", "P", "MRR")
"""In the order of BEIR's result tuple, then MRR."""


@dataclass(frozen=True)
class RetrievalScores:
    """The scores of one model on one eval set.

    ``per_query``: metric name (``NDCG@10``) to float64 [n], along ``query_ids``. ``run``: what was retrieved.
    ``eval_set``: the eval set's version, where it has one.
    """

    query_ids: tuple[str, ...]
    per_query: Mapping[str, NDArray[np.float64]]
    run: Run
    eval_set: str = ""

    def means(self) -> dict[str, float]:
        """The mean of every metric over all queries."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}


def ranked(found: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents and scores of one query in trec_eval's order: equal scores by document id, descending."""
    return sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)


def metric_names(k_values: Sequence[int]) -> list[str]:
    """``NDCG@1``, ``NDCG@5``...: every family at every k, ascending."""
    return [f"{family}@{k}" for family in FAMILIES for k in sorted(set(k_values))]


def main_metric(family: str, k_values: Sequence[int]) -> str:
    """The metric of a family at the cut-off nearest to 10."""
    return f"{family}@{min(k_values, key=lambda k: abs(k - 10))}"


def score_run(run: Run, qrels: Mapping[str, Mapping[str, int]], k_values: Sequence[int]) -> RetrievalScores:
    """Every metric at every k for every query that has a relevant document.

    A query that is missing from the run, or for which nothing was retrieved, scores 0. A document with the query's own
    id is not counted as retrieved, as in BEIR (``ignore_identical_ids``,
    https://github.com/beir-cellar/beir/blob/main/beir/retrieval/evaluation.py): where questions are documents
    themselves (ArguAna, Quora), each would find itself first.

    Raises:
        RetrievalError: no query has a relevant document.
    """
    import ir_measures

    judged = {query: dict(each) for query, each in qrels.items() if any(score > 0 for score in each.values())}
    if not judged:
        raise RetrievalError("no query of the eval set has a relevant document")
    run = {query: without_own(query, found) for query, found in run.items()}
    retrieved = {query: run[query] for query in judged if run.get(query)}
    measure_of = {name: _measure(name) for name in metric_names(k_values)}
    values: dict[tuple[Measure, str], float] = {}
    if retrieved:
        # By name, since ir_measures' other providers order equal scores differently.
        calculated = ir_measures.pytrec_eval.iter_calc(set(measure_of.values()), judged, retrieved)
        values = {(each.measure, each.query_id): each.value for each in calculated}
    query_ids = tuple(judged)
    per_query = {
        name: np.array([_cut_off(name, values.get((measure, query), 0.0)) for query in query_ids])
        for name, measure in measure_of.items()
    }
    return RetrievalScores(query_ids, per_query, run)


def without_own(query: str, found: Mapping[str, float]) -> dict[str, float]:
    """What was retrieved for a query, less the document that has its id."""
    return {document: score for document, score in found.items() if document != query}


def _measure(name: str) -> Measure:
    """trec_eval's measure that a metric is computed from; it has no cut-off for the reciprocal rank."""
    from ir_measures import AP, RR, P, R, nDCG

    family, _, k = name.partition("@")
    return RR if family == "MRR" else {"NDCG": nDCG, "MAP": AP, "Recall": R, "P": P}[family] @ int(k)


def _cut_off(name: str, value: float) -> float:
    """The value of a metric; a reciprocal rank beyond rank k counts as 0."""
    family, _, k = name.partition("@")
    return 0.0 if family == "MRR" and value * int(k) < 1 - 1e-9 else value
