"""Borda, ties, gaps, intervals and agreement against tables worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from assets_pkg.judges.errors import RankingError
from assets_pkg.judges.ranking import agreement, borda_points, rank

# Three judges, four captioners. By hand:
#   a: w .9 x .8 y .7 z .6  -> w3 x2 y1 z0
#   b: x .5 w .4 z .3 y .2  -> x3 w2 z1 y0
#   c: y .99 w .98 x .97 z .1 -> y3 w2 x1 z0
# totals: w 7, x 6, y 4, z 1
MEANS = {
    "a": {"w": 0.9, "x": 0.8, "y": 0.7, "z": 0.6},
    "b": {"w": 0.4, "x": 0.5, "y": 0.2, "z": 0.3},
    "c": {"w": 0.98, "x": 0.97, "y": 0.99, "z": 0.1},
}


def by_clip(means: dict[str, dict[str, float]], clips: int = 5) -> dict[str, dict[str, dict[str, float]]]:
    """Clips that scatter around each mean in the same way."""
    offsets = np.linspace(-0.001, 0.001, clips)
    return {
        judge: {
            name: {str(clip): mean + offset for clip, offset in enumerate(offsets)}
            for name, mean in named.items()
        }
        for judge, named in means.items()
    }


def test_points_are_those_of_the_hand_worked_table() -> None:
    assert borda_points(MEANS) == {"w": 7, "x": 6, "y": 4, "z": 1}


def test_ranking_has_points_means_and_spread_over_judges() -> None:
    made = rank(by_clip(MEANS), samples=100)
    assert [(row.rank, row.captioner, row.points) for row in made] == [
        (1, "w", 7), (2, "x", 6), (3, "y", 4), (4, "z", 1),
    ]  # fmt: skip
    assert made[0].mean == pytest.approx((0.9 + 0.4 + 0.98) / 3)
    assert made[0].std == pytest.approx(np.std([0.9, 0.4, 0.98], ddof=1))


def test_equal_points_are_told_apart_by_the_mean_in_full_precision() -> None:
    means = {"a": {"x": 0.5000002, "y": 0.5}, "b": {"x": 0.4, "y": 0.4000001}}
    assert borda_points(means) == {"x": 1, "y": 1}
    assert [row.captioner for row in rank(by_clip(means), samples=100)] == ["x", "y"]


def test_a_tie_of_a_judge_is_an_error_that_names_it() -> None:
    means = {**MEANS, "b": {"w": 0.4, "x": 0.4, "y": 0.2, "z": 0.3}}
    with pytest.raises(RankingError, match=r"judge b gives w and x exactly the same mean 0.4"):
        borda_points(means)


def test_a_gap_of_a_judge_is_an_error_that_names_it() -> None:
    with pytest.raises(RankingError, match="judge c has no score for w, x"):
        borda_points({**MEANS, "c": {"y": 0.1, "z": 0.2}})
    scores = by_clip(MEANS)
    del scores["b"]["x"]["3"]
    with pytest.raises(RankingError, match="judge b did not score the same clips for x as for the others: 3"):
        rank(scores)


def test_no_scores_are_an_error() -> None:
    with pytest.raises(RankingError, match="no scores"):
        rank({})


def test_one_judge_has_no_spread_and_no_agreement() -> None:
    scores = by_clip({"a": MEANS["a"]})
    assert [row.std for row in rank(scores, samples=100)] == [None] * 4
    assert agreement(scores).without == {}


def test_agreement_is_spearman_and_names_who_moves_the_ranking() -> None:
    made = agreement(by_clip(MEANS))
    names = list(MEANS["a"])
    for pair, value in made.spearman.items():
        one, other = pair.split(" ~ ")
        expected = spearmanr([MEANS[one][n] for n in names], [MEANS[other][n] for n in names]).statistic
        assert value == pytest.approx(expected)
    # Without a: b and c give w 4, x 4, y 3, z 1; w and x are ordered by their means .69 and .735.
    assert made.without["a"]["first"] == "x"
    assert made.without["a"]["largest_move"] == 1
    assert made.without["a"]["kendall_tau"] == pytest.approx(4 / 6)
    # Without c: a and b give w 5, x 5, y 1, z 1; means w .65 x .65 are equal but for rounding, y .45 z .45.
    assert made.without["b"]["first"] == "w"


def test_intervals_hold_the_figures_and_grow_with_the_noise() -> None:
    rng = np.random.default_rng(0)
    names = ["w", "x", "y"]

    def noisy(spread: float) -> dict[str, dict[str, dict[str, float]]]:
        return {
            judge: {
                name: {str(clip): 0.5 + 0.02 * row + spread * rng.standard_normal() for clip in range(60)}
                for row, name in enumerate(names)
            }
            for judge in ("a", "b")
        }

    quiet, loud = rank(noisy(0.005), samples=300), rank(noisy(0.5), samples=300)
    assert all(row.rank_low == row.rank_high == row.rank for row in quiet)
    assert all(row.mean_low < row.mean < row.mean_high for row in [*quiet, *loud])
    assert max(row.rank_high - row.rank_low for row in loud) >= 1
    assert rank(by_clip(MEANS), samples=100, seed=1) == rank(by_clip(MEANS), samples=100, seed=1)
