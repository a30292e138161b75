"""The ranking of captioners from the scores of several judges: Borda count, and how it depends on judges and clips.

The judges' scales differ (the five of CLIP-CC-Bench have means from 0.46 to 0.73 on the same captions), so only the
order that each gives counts: of V captioners the best gets V-1 points, the last 0, summed over the judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from assets_pkg.judges.errors import RankingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]


@dataclass(frozen=True)
class RankedCaptioner:
    """One row of the ranking. ``points`` are Borda points, ``mean`` and ``std`` (ddof 1; None for one judge) are of
    hm_cf over judges; ``rank_low``..``rank_high`` and ``mean_low``..``mean_high`` are bootstrap intervals over
    clips."""

    rank: int
    captioner: str
    points: int
    mean: float
    std: float | None
    rank_low: float
    rank_high: float
    mean_low: float
    mean_high: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of the judges. ``spearman``: rank correlation of each pair of judges. ``without``: for each judge,
    Kendall's tau between the ranking without it and the full one, who is then first, and the largest change of a rank.
    Both are empty for one judge."""

    spearman: Mapping[str, float]
    without: Mapping[str, dict[str, Any]]


def borda_points(means: Mapping[str, Mapping[str, float]]) -> dict[str, int]:
    """Borda points of every captioner, from mean scores by judge and captioner.

    Raises:
        RankingError: a judge has no score for a captioner, or exactly the same mean for two.
    """
    _check_gaps(means)
    points: dict[str, int] = {}
    for judge, scores in means.items():
        order = sorted(scores, key=lambda name: -scores[name])
        for better, worse in pairwise(order):
            if scores[better] == scores[worse]:
                raise RankingError(
                    f"judge {judge} gives {better} and {worse} exactly the same mean {scores[better]:.6f}: their "
                    "captions are the same, or the judge does not distinguish them; leave one of the captioners out"
                )
        for position, name in enumerate(order, 1):
            points[name] = points.get(name, 0) + len(order) - position
    return points


def rank(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 42,
) -> list[RankedCaptioner]:
    """The ranking, best first, from hm_cf by judge, captioner and clip. Captioners with equal points are ordered by the
    mean over judges.

    Raises:
        RankingError: see `borda_points`; or two captioners are equal in points and mean; or a clip is missing.
    """
    import numpy as np

    judges, names, table = _table(scores)
    means = table.mean(axis=2)
    points = borda_points(
        {judge: dict(zip(names, means[row], strict=True)) for row, judge in enumerate(judges)}
    )
    overall = dict(zip(names, means.mean(axis=0), strict=True))
    order = sorted(names, key=lambda name: (-points[name], -overall[name]))
    for better, worse in pairwise(order):
        if (points[better], overall[better]) == (points[worse], overall[worse]):
            raise RankingError(f"{better} and {worse} are equal in points and mean: leave one of them out")
    spread = means.std(axis=0, ddof=1) if len(judges) > 1 else None
    ranks, resampled = _bootstrap(table, samples, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    rows = {name: row for row, name in enumerate(names)}
    ranked = []
    for position, name in enumerate(order, 1):
        row = rows[name]
        rank_low, rank_high = np.quantile(ranks[:, row], tails)
        mean_low, mean_high = np.quantile(resampled[:, row], tails)
        std = None if spread is None else float(spread[row])
        ranked.append(
            RankedCaptioner(
                position,
                name,
                points[name],
                float(overall[name]),
                std,
                float(rank_low),
                float(rank_high),
                float(mean_low),
                float(mean_high),
            )
        )
    return ranked


def agreement(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Agreement:
    """Agreement of the judges, and the ranking without each of them."""
    from scipy import stats as scipy_stats

    stats: Any = scipy_stats
    judges, names, table = _table(scores)
    means = table.mean(axis=2)
    pairs = {
        f"{judges[a]} ~ {judges[b]}": float(stats.spearmanr(means[a], means[b])[0])
        for a, b in combinations(range(len(judges)), 2)
        if len(names) > 1
    }
    without: dict[str, dict[str, Any]] = {}
    full = _ranks(means, names)
    for left_out in range(len(judges) if len(judges) > 1 else 0):
        kept = [row for row in range(len(judges)) if row != left_out]
        new = _ranks(means[kept], names)
        tau = stats.kendalltau([full[name] for name in names], [new[name] for name in names])[0]
        without[judges[left_out]] = {
            "kendall_tau": float(tau),
            "first": min(new, key=lambda name: new[name]),
            "largest_move": max(abs(full[name] - new[name]) for name in names),
        }
    return Agreement(pairs, without)


def _ranks(means: Table, names: Sequence[str]) -> dict[str, int]:
    """Rank of every captioner by Borda points, then by mean."""
    points = _points(means[None])[0]
    order = sorted(range(len(names)), key=lambda row: (-points[row], -means[:, row].mean()))
    return {names[row]: position for position, row in enumerate(order, 1)}


def _bootstrap(table: Table, samples: int, seed: int) -> tuple[Table, Table]:
    """Ranks [samples, captioners] and means over judges [samples, captioners] for clips drawn with replacement."""
    import numpy as np
    from scipy.stats import rankdata

    clips = table.shape[2]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clips, np.full(clips, 1 / clips), size=samples).astype(np.float64)
    means = np.einsum("sc,jvc->sjv", counts, table) / clips
    overall = means.mean(axis=1)
    # Sort by points, then by the mean: scaled to less than half a point, it only orders equal points.
    mean_range = np.ptp(overall, axis=1, keepdims=True) + 1e-12
    decisive = _points(means) + 0.4 * (overall - overall.min(axis=1, keepdims=True)) / mean_range
    return rankdata(-decisive, axis=1), overall


def _points(means: Table) -> Table:
    """Borda points [samples, captioners] of means [samples, judges, captioners]; ties share their points."""
    from scipy.stats import rankdata

    return (means.shape[2] - rankdata(-means, axis=2)).sum(axis=1)


def _table(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> tuple[list[str], list[str], Table]:
    """Judges, captioners and hm_cf [judges, captioners, clips].

    Raises:
        RankingError: a judge, captioner or clip is missing somewhere.
    """
    import numpy as np

    _check_gaps(scores)
    judges = list(scores)
    names = list(scores[judges[0]])
    clips = list(scores[judges[0]][names[0]])
    for judge in judges:
        for name in names:
            missing = set(clips) ^ set(scores[judge][name])
            if missing:
                raise RankingError(
                    f"judge {judge} did not score the same clips for {name} as for the others: "
                    f"{', '.join(sorted(missing)[:5])}"
                )
    return judges, names, np.array([[[scores[j][n][c] for c in clips] for n in names] for j in judges])


def _check_gaps(scores: Mapping[str, Mapping[str, Any]]) -> None:
    if not scores or not next(iter(scores.values())):
        raise RankingError("there are no scores to rank")
    everyone = set[str]().union(*scores.values())
    for judge, named in scores.items():
        missing = sorted(everyone - set(named))
        if missing:
            raise RankingError(
                f"judge {judge} has no score for {', '.join(missing)}: judge them, or leave them out"
            )
