"""Figures against hand-worked cases and independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from assets_pkg.image_text.colour import differences, lab, nearest_colour, xkcd_colours
from assets_pkg.image_text.measures import (
    Ranks,
    colour_figures,
    cosines,
    distance_statistics,
    partner_ranks,
    retrieval,
    separation,
)


def units(count: int, dimensions: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestColour:
    @pytest.mark.parametrize(
        ("rgb", "expected"),
        [
            ((255, 255, 255), (100.0, 0.0, 0.0)),
            ((0, 0, 0), (0.0, 0.0, 0.0)),
            ((255, 0, 0), (53.24, 80.09, 67.20)),
            ((0, 255, 0), (87.73, -86.18, 83.18)),
            ((0, 0, 255), (32.30, 79.19, -107.86)),
        ],
    )
    def test_lab_has_the_published_values(
        self, rgb: tuple[int, int, int], expected: tuple[float, float, float]
    ) -> None:
        np.testing.assert_allclose(lab(rgb), expected, atol=0.02)

    def test_there_are_the_949_colours_of_the_survey(self) -> None:
        colours = xkcd_colours()
        assert len(colours) == 949
        assert colours["cloudy blue"] == (0xAC, 0xC2, 0xD9)

    def test_chance_difference_is_the_one_measured_elsewhere(self) -> None:
        apart = differences(list(xkcd_colours().values()))
        assert apart[~np.eye(949, dtype=bool)].mean() == pytest.approx(80.6, abs=1.0)

    def test_the_nearest_named_colour_is_found(self) -> None:
        assert nearest_colour([(250, 3, 2), (1, 0, 126)]) == ["red", "navy"]


class TestRanks:
    def test_ranks_and_recall_of_a_hand_worked_table(self) -> None:
        similarities = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])
        ranks = partner_ranks(similarities)
        assert ranks.greater.tolist() == [0, 1, 2]
        figures = retrieval({"t2i": ranks}, [1, 2])
        assert figures["R@1 t2i"] == pytest.approx(1 / 3)
        assert figures["R@2 t2i"] == pytest.approx(2 / 3)
        assert figures["MRR t2i"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)

    def test_ties_give_what_a_random_order_gives_on_average(self) -> None:
        ranks = Ranks(np.array([1]), np.array([3]))
        # One is better; three are equal: the right one is second, third or fourth.
        assert [float(ranks.hits(k)[0]) for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert float(ranks.reciprocal()[0]) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)

    def test_a_constant_model_gets_chance(self) -> None:
        texts = units(50, 8, 0)
        images = np.repeat(units(1, 8, 1), 50, axis=0)
        ranks = partner_ranks(cosines(texts, images))
        assert retrieval({"t2i": ranks}, [1, 10])["R@1 t2i"] == pytest.approx(1 / 50)
        assert retrieval({"t2i": ranks}, [1, 10])["R@10 t2i"] == pytest.approx(10 / 50)


def test_distances_are_those_of_color_perception_bench() -> None:
    texts, images = units(40, 16, 0), units(40, 16, 1)
    distances = 1 - np.sum(texts * images, axis=1)
    figures = distance_statistics(texts, images)
    assert figures["n"] == 40
    for name, expected in {
        "mean": np.mean(distances),
        "median": np.median(distances),
        "std": np.std(distances),
        "variance": np.var(distances),
        "min": np.min(distances),
        "max": np.max(distances),
    }.items():
        assert figures[name] == pytest.approx(float(expected), abs=1e-6)


def test_separation_equals_loops() -> None:
    texts, images = units(12, 6, 2), units(12, 6, 3)
    similarities = cosines(texts, images)
    right = [similarities[i, i] for i in range(12)]
    wrong = [similarities[i, j] for i in range(12) for j in range(12) if i != j]
    best = [max(similarities[i, j] for j in range(12) if j != i) for i in range(12)]
    figures = separation(similarities, texts, images)
    assert figures["margin"] == pytest.approx(np.mean(right) - np.mean(wrong))
    assert figures["hard_margin"] == pytest.approx(np.mean(right) - np.mean(best))
    assert figures["modality_gap"] == pytest.approx(np.linalg.norm(texts.mean(axis=0) - images.mean(axis=0)))


def test_colour_figures_equal_scipy_and_loops() -> None:
    rng = np.random.default_rng(5)
    colours = rng.integers(0, 256, size=(30, 3))
    texts, images = units(30, 6, 6), units(30, 6, 7)
    apart, similarities = differences(colours), cosines(texts, images)
    figures = colour_figures(apart, similarities, texts, images)
    upper = np.triu_indices(30, k=1)
    expected = spearmanr(apart[upper], (1 - cosines(images, images))[upper]).statistic
    assert figures["spearman images"] == pytest.approx(expected, abs=1e-4)
    first = [apart[row, similarities[row].argmax()] for row in range(30)]
    assert figures["first dE t2i"] == pytest.approx(np.mean(first))


def test_vectors_that_are_the_colours_follow_them_perfectly_and_constant_ones_not_at_all() -> None:
    angles = np.linspace(0, np.pi / 3, 20)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    apart = np.abs(angles[:, None] - angles[None])
    figures = colour_figures(apart, cosines(ring, ring), ring, np.repeat(ring[:1], 20, axis=0))
    assert figures["spearman texts"] > 0.99
    assert figures["spearman images"] == 0.0
    assert figures["first dE t2i"] == 0.0
