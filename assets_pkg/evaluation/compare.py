"""Paired comparison of two models on one eval set: bootstrap intervals, a sign-flip randomisation test and the minimum
detectable effect, over all queries and over slices.

Queries are the unit of resampling (Efron & Tibshirani 1993; Smucker et al., CIKM 2007, doi:10.1145/1321440.1321528).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.retrieval.metrics import RetrievalScores
from storage.formats.beir import BeirQuery

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
"""Statistical power: the probability that a gain of the minimum detectable size is significant."""

_CELLS = 2**22
"""Random numbers held in memory at a time."""

_SAME = 1e-9
"""Differences below this are rounding."""

LANGUAGE = "language"

KINDS = {
    "query type": "query_type",
    "reasoning type": "reasoning_type",
    "hops": "hop_count",
    "document": "file_name",
    "language": LANGUAGE,
}
"""How the eval set is sliced, and the field of a query's metadata that holds the value."""

FEWEST_QUERIES = 5
MOST_SLICES = 20
"""Of one kind: those with the most queries."""


@dataclass(frozen=True)
class Difference:
    """Fine-tuned minus base on one metric.

    ``low``, ``high``: the confidence interval of the mean gain. ``p_value``: two-sided, of the null hypothesis that
    the models are equal. ``wins``, ``losses``, ``ties``: numbers of queries. ``detectable``: the minimum detectable
    effect, the smallest true gain that is significant with a probability of 80% on an eval set of this size and
    variance.
    """

    base: float
    finetuned: float
    delta: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int
    detectable: float


def compare(
    base: RetrievalScores, finetuned: RetrievalScores, settings: EvalSettings
) -> dict[str, Difference]:
    """The difference of every metric, with the confidence, number of resamples and seed of ``settings``.

    Raises:
        EvaluationError: the models were not evaluated on the same eval set, or not on the same queries.
    """
    if base.eval_set != finetuned.eval_set:
        raise EvaluationError(
            f"base and fine-tuned model were measured on different eval sets ({base.eval_set or 'unnamed'} and "
            f"{finetuned.eval_set or 'unnamed'}): measure both on one"
        )
    if base.query_ids != finetuned.query_ids:
        raise EvaluationError(
            "base and fine-tuned model were measured on different queries: measure both again"
        )
    names = [name for name in base.per_query if name in finetuned.per_query]
    gains = np.stack([finetuned.per_query[name] - base.per_query[name] for name in names], axis=1)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(_bootstrap_means(gains, settings), [tail, 1 - tail], axis=0)
    p_values = _sign_flip_p_values(gains, settings)
    detectable = _minimum_detectable_effect(gains, settings.confidence)
    return {
        name: Difference(
            base=float(base.per_query[name].mean()),
            finetuned=float(finetuned.per_query[name].mean()),
            delta=float(gains[:, row].mean()),
            low=float(low[row]),
            high=float(high[row]),
            p_value=float(p_values[row]),
            wins=int((gains[:, row] > _SAME).sum()),
            losses=int((gains[:, row] < -_SAME).sum()),
            ties=int((np.abs(gains[:, row]) <= _SAME).sum()),
            detectable=float(detectable[row]),
        )
        for row, name in enumerate(names)
    }


def _bootstrap_means(gains: NDArray[np.float64], settings: EvalSettings) -> NDArray[np.float64]:
    """Paired bootstrap: mean gains of resampled queries, float64 [samples, metrics]; metrics share the resamples."""
    random = np.random.default_rng(settings.bootstrap_seed)
    queries = len(gains)
    means: list[NDArray[np.float64]] = []
    for samples in _blocks(settings.bootstrap_samples, queries):
        drawn = random.integers(queries, size=(samples, queries)) + queries * np.arange(samples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=samples * queries).reshape(samples, queries)
        means.append(counts @ gains / queries)
    return np.concatenate(means)


def _sign_flip_p_values(gains: NDArray[np.float64], settings: EvalSettings) -> NDArray[np.float64]:
    """Paired randomisation test: the fraction of random sign assignments whose mean is at least as far from zero, the
    observed assignment included: float64 [metrics]."""
    random = np.random.default_rng(settings.bootstrap_seed)
    observed = np.abs(gains.mean(0)) - _SAME
    extreme = np.ones(gains.shape[1])
    for samples in _blocks(settings.bootstrap_samples, len(gains)):
        signs = 2.0 * random.integers(2, size=(samples, len(gains))) - 1
        extreme += (np.abs(signs @ gains / len(gains)) >= observed).sum(0)
    return extreme / (settings.bootstrap_samples + 1)


def _minimum_detectable_effect(gains: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """``(z_(1 - alpha/2) + z_power) * sd / sqrt(n)`` of every metric, float64 [metrics] (normal approximation)."""
    normal = NormalDist()
    factor = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(POWER)
    spread = gains.std(0, ddof=1) if len(gains) > 1 else np.full(gains.shape[1], np.nan)
    return factor * spread / np.sqrt(len(gains))


def _blocks(samples: int, queries: int) -> Iterator[int]:
    step = max(1, _CELLS // queries)
    for start in range(0, samples, step):
        yield min(step, samples - start)


@dataclass(frozen=True)
class Slice:
    """The queries for which ``kind`` is ``value``, and the difference on ``metric`` among them."""

    kind: str
    value: str
    queries: int
    metric: str
    difference: Difference


def compare_slices(
    base: RetrievalScores,
    finetuned: RetrievalScores,
    queries: Mapping[str, BeirQuery],
    metrics: Sequence[str],
    settings: EvalSettings,
) -> list[Slice]:
    """The difference of every metric on every slice of the eval set that has at least five queries.

    Eval sets whose queries lack the fields have no slices. A kind with only one slice, the whole eval set, is left out.
    """
    found: list[Slice] = []
    for kind, field in KINDS.items():
        slices = _slices(base.query_ids, queries, field)
        if len(slices) < 2:
            continue
        largest = sorted(slices, key=lambda value: (-len(slices[value]), value))[:MOST_SLICES]
        for value in (value for value in largest if len(slices[value]) >= FEWEST_QUERIES):
            rows = slices[value]
            differences = compare(_subset(base, rows, metrics), _subset(finetuned, rows, metrics), settings)
            found += [Slice(kind, value, len(rows), name, each) for name, each in differences.items()]
    return found


def _slices(query_ids: Sequence[str], queries: Mapping[str, BeirQuery], field: str) -> dict[str, list[int]]:
    """Rows of queries by the value of ``field``."""
    slices: dict[str, list[int]] = {}
    for row, query_id in enumerate(query_ids):
        value = queries[query_id].metadata.get(field)
        if value is not None:
            slices.setdefault(_text(value), []).append(row)
    return slices


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _subset(scores: RetrievalScores, rows: Sequence[int], metrics: Sequence[str]) -> RetrievalScores:
    return RetrievalScores(
        tuple(scores.query_ids[row] for row in rows),
        {name: scores.per_query[name][list(rows)] for name in metrics},
        {},
    )
