"""Is one model really better than another on the same exam? Paired tests over queries.

Intervals by the percentile bootstrap over queries, p-values by the randomisation (sign-flip) test: the two
that Smucker, Allan and Carterette (CIKM 2007, https://doi.org/10.1145/1321440.1321528) recommend for
retrieval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.evaluation.metrics import RetrievalScores
from assets_pkg.evaluation.settings import EvalSettings

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
    ``losses``, ``ties``: queries. ``detectable``: the smallest true gain that an exam of this size and spread
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
        EvaluationError: the two were not measured on the same exam, or not on the same queries.
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
