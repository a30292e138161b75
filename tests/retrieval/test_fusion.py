"""Fused rankings against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from assets_pkg.retrieval.errors import RetrievalError
from assets_pkg.retrieval.fusion import convex_combination, reciprocal_rank_fusion
from assets_pkg.retrieval.search_method import SearchMethod
from resources.vector_store.base import Hit


def hit(doc: str, score: float = 0.5) -> Hit:
    return Hit(score, f"d_{doc}", doc, 1, "", "", doc)


def test_reciprocal_ranks_are_added() -> None:
    fused = reciprocal_rank_fusion([[hit("a"), hit("b")], [hit("b"), hit("c")]])
    assert [found.doc_id for found in fused] == ["b", "a", "c"]
    expected = [1 / 62 + 1 / 61, 1 / 61, 1 / 62]
    np.testing.assert_allclose([found.score for found in fused], expected)


def test_scaled_scores_are_combined() -> None:
    dense = [hit("a", 0.9), hit("b", 0.7), hit("c", 0.5)]  # scaled: 1, 0.5, 0
    words = [hit("c", 8.0), hit("b", 6.0), hit("d", 2.0)]  # scaled: 1, 0.75, 0.25
    fused = convex_combination(dense, words, 0.6)
    assert [found.doc_id for found in fused] == ["a", "b", "c", "d"]
    np.testing.assert_allclose([found.score for found in fused], [0.6, 0.6 * 0.5 + 0.4 * 0.75, 0.4, 0.1])


def test_one_ranking_alone_keeps_its_order() -> None:
    dense = [hit("a", 0.9), hit("b", 0.7)]
    assert [found.doc_id for found in convex_combination(dense, [], 0.5)] == ["a", "b"]
    assert [found.doc_id for found in convex_combination([], dense, 0.5)] == ["a", "b"]
    assert convex_combination([], [], 0.5) == []
    assert [found.score for found in convex_combination([hit("a", 0.3)], [], 0.5)] == [0.5]


@pytest.mark.parametrize("text", ["dense", "bm25", "rrf", "convex:0.7"])
def test_methods_are_written_as_they_are_read(text: str) -> None:
    assert str(SearchMethod.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "hybrid", "dense:0.5", "convex", "convex:1", "convex:0", "convex:nan", "rrf:60"]
)
def test_other_methods_are_refused(text: str) -> None:
    with pytest.raises(RetrievalError, match="must be dense, bm25, rrf or convex"):
        SearchMethod.parse(text)
