"""Ranks against brute force, and the rule that makes them scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.sdg import round_trip
from assets_pkg.sdg.round_trip import ranks_of_positives, score_of_rank
from resources.encoders.base import Role
from storage.progress import Progress, no_progress
from tests.sdg.making import WordEncoder

TEXTS = st.lists(st.sampled_from(["wing", "flap", "drag", "lift", "flow"]), min_size=1, max_size=4).map(
    " ".join
)


@pytest.mark.slow
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8),
    st.lists(TEXTS, max_size=10, unique=True),
    st.integers(1, 4),
)
def test_ranks_are_those_of_brute_force(pairs: list[tuple[str, str]], others: list[str], block: int) -> None:
    questions, positives = [q for q, _ in pairs], [p for _, p in pairs]
    others = [text for text in others if text not in positives]
    encoder = WordEncoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_trip, "BLOCK_TEXTS", block)
        patch.setattr(round_trip, "BLOCK_QUESTIONS", block)
        found = ranks_of_positives(questions, positives, iter(others), encoder)
    index = list(dict.fromkeys(positives)) + others
    vectors = encoder.embed(index, "passage").astype(np.float64)
    for question, positive, rank in zip(questions, positives, found, strict=True):
        scores = vectors @ encoder.embed([question], "query")[0].astype(np.float64)
        own = scores[index.index(positive)]
        better = sum(score > own + 1e-6 for score in scores)
        level = sum(abs(score - own) <= 1e-6 for score in scores)
        assert better + 1 <= rank <= better + level


def test_every_text_is_embedded_once() -> None:
    encoder = WordEncoder()
    seen: list[tuple[int, int]] = []
    others = [f"text {n}" for n in range(6)]
    ranks = ranks_of_positives(
        ["a", "b", "c"],
        ["x a", "x a", "y c"],
        others,
        encoder,
        lambda done, total, *_, **__: seen.append((done, total)),
        8,
    )
    assert encoder.calls == [("query", 3), ("passage", 2), ("passage", 6)]
    assert ranks.tolist()[::2] == [1, 1]
    assert seen[-1] == (8, 8)


class TalkativeEncoder(WordEncoder):
    """Reports every text."""

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Any:
        for number, _ in enumerate(texts, start=1):
            progress(number, len(texts), "texts", cached=0)
        return super().embed(texts, role)


def test_progress_is_that_of_all_passages_while_a_block_is_embedded() -> None:
    seen: list[tuple[int, int, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_trip, "BLOCK_TEXTS", 2)
        ranks_of_positives(
            ["a"], ["x a"], ["b", "c", "d"], TalkativeEncoder(), lambda *report, **_: seen.append(report), 4
        )
    assert seen == [(n, 4, "passages") for n in (1, 2, 3, 4, 4)]


def test_a_tie_counts_against_the_positive() -> None:
    assert ranks_of_positives(["wing"], ["wing one"], ["wing two"], WordEncoder()).tolist() == [2]


@pytest.mark.parametrize(
    ("rank", "score"), [(1, 10), (10, 8.5), (100, 7), (101, 6.99), (1000, 5.5), (10**9, 1)]
)
def test_scores(rank: int, score: float) -> None:
    assert score_of_rank(rank) == score


def test_scores_fall_with_the_rank() -> None:
    scores = [score_of_rank(rank) for rank in range(1, 500)]
    assert scores == sorted(scores, reverse=True)
    assert all((score >= 7) == (rank <= 100) for rank, score in enumerate(scores, start=1))
