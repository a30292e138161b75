"""Retrieval metrics per query, by trec_eval's own code (pytrec_eval).

Its semantics: nDCG with linear gains; equal scores in descending order of document id, whatever order they
came in; documents without judgement are not relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from assets_pkg.evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Mapping[str, Mapping[str, float]]
"""Scores by query id and document id; the best of each query."""

FAMILIES = ("NDCG", "MAP", "Recall", "P", "MRR")
"""In the order of BEIR's result tuple, then MRR."""

_TREC = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "P": "P"}


@dataclass(frozen=True)
class RetrievalScores:
    """What one model did on one eval set.

    ``per_query``: metric name (``NDCG@10``) to float64 [n], along ``query_ids``. ``run``: what it found.
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

    A query that is missing from the run, or for which it found nothing, counts 0.

    Raises:
        EvaluationError: no query has a relevant document.
    """
    import pytrec_eval

    judged = {query: dict(each) for query, each in qrels.items() if any(score > 0 for score in each.values())}
    if not judged:
        raise EvaluationError("no query of the eval set has a relevant document")
    cuts = sorted(set(k_values))
    wanted = {f"{name}.{','.join(map(str, cuts))}" for name in _TREC.values()} | {"recip_rank"}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, wanted)
    measured = evaluator.evaluate({query: dict(run[query]) for query in judged if run.get(query)})
    query_ids = tuple(judged)
    rows = [measured.get(query, {}) for query in query_ids]
    per_query = {name: np.array([_value(row, name) for row in rows]) for name in metric_names(cuts)}
    return RetrievalScores(query_ids, per_query, run)


def _value(row: Mapping[str, float], name: str) -> float:
    family, _, cut = name.partition("@")
    if family != "MRR":
        return row.get(f"{_TREC[family]}_{cut}", 0.0)
    # trec_eval has no cut-off for it: the first relevant document below rank k counts as not found.
    reciprocal = row.get("recip_rank", 0.0)
    return reciprocal if reciprocal * int(cut) >= 1 - 1e-9 else 0.0
