"""Is one model really better than another on the same eval set? Paired tests over all queries and over slices."""

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
"""The chance to see a gain of the smallest detectable size as significant."""

_CELLS = 2**22
"""Random numbers held at a time."""

_SAME = 1e-9


@dataclass(frozen=True)
class Difference:
    """Fine-tuned minus base on one metric.

    ``low``, ``high``: the interval of the mean gain. ``p_value``: two-sided, of no difference. ``wins``,
    ``losses``, ``ties``: queries. ``detectable``: the smallest true gain that an eval set of this size and spread
    would show with 80% chance.
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
    """The difference of every metric, with ``settings``' confidence, number of samples and seed.

    Raises:
        EvaluationError: the two were not measured on the same eval set, or not on the same queries.
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
    detectable = _detectable(gains, settings.confidence)
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
    """Means of resampled queries, the same resamples for every metric: float64 [samples, metrics]."""
    random = np.random.default_rng(settings.bootstrap_seed)
    queries = len(gains)
    means: list[NDArray[np.float64]] = []
    for samples in _blocks(settings.bootstrap_samples, queries):
        drawn = random.integers(queries, size=(samples, queries)) + queries * np.arange(samples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=samples * queries).reshape(samples, queries)
        means.append(counts @ gains / queries)
    return np.concatenate(means)


def _sign_flip_p_values(gains: NDArray[np.float64], settings: EvalSettings) -> NDArray[np.float64]:
    """Share of random sign assignments with a mean at least as far from zero; the observed one counts."""
    random = np.random.default_rng(settings.bootstrap_seed)
    observed = np.abs(gains.mean(0)) - _SAME
    extreme = np.ones(gains.shape[1])
    for samples in _blocks(settings.bootstrap_samples, len(gains)):
        signs = 2.0 * random.integers(2, size=(samples, len(gains))) - 1
        extreme += (np.abs(signs @ gains / len(gains)) >= observed).sum(0)
    return extreme / (settings.bootstrap_samples + 1)


def _detectable(gains: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    normal = NormalDist()
    factor = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(POWER)
    spread = gains.std(0, ddof=1) if len(gains) > 1 else np.full(gains.shape[1], np.nan)
    return factor * spread / np.sqrt(len(gains))


def _blocks(samples: int, queries: int) -> Iterator[int]:
    step = max(1, _CELLS // queries)
    for start in range(0, samples, step):
        yield min(step, samples - start)


KINDS = {
    "query type": "query_type",
    "reasoning type": "reasoning_type",
    "hops": "hop_count",
    "document": "file_name",
}
"""How the eval set is cut, and the field of a query's metadata that says it."""

FEWEST_QUERIES = 5
MOST_SLICES = 20
"""Of one kind: those with the most queries."""


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
    """The difference of every metric on every part of the eval set that has at least five queries.

    Eval sets whose queries lack the fields have no parts. A kind with one part only, the whole eval set, is left out.
    """
    found: list[Slice] = []
    for kind, field in KINDS.items():
        parts = _parts(base.query_ids, queries, field)
        if len(parts) < 2:
            continue
        largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:MOST_SLICES]
        for value in (value for value in largest if len(parts[value]) >= FEWEST_QUERIES):
            rows = parts[value]
            differences = compare(_part(base, rows, metrics), _part(finetuned, rows, metrics), settings)
            found += [Slice(kind, value, len(rows), name, each) for name, each in differences.items()]
    return found


def _parts(query_ids: Sequence[str], queries: Mapping[str, BeirQuery], field: str) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for row, query_id in enumerate(query_ids):
        value = queries[query_id].metadata.get(field)
        if value is not None:
            parts.setdefault(_text(value), []).append(row)
    return parts


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _part(scores: RetrievalScores, rows: Sequence[int], metrics: Sequence[str]) -> RetrievalScores:
    return RetrievalScores(
        tuple(scores.query_ids[row] for row in rows),
        {name: scores.per_query[name][list(rows)] for name in metrics},
        {},
    )
