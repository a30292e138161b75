"""Rankings of the same passages made one: by ranks, or by scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from resources.vector_store.base import Hit

FUSION_CONSTANT = 60
"""The k of reciprocal rank fusion in its paper: the larger, the less the first ranks outweigh the later ones."""

Key = tuple[str, int]
"""Document and chunk: hits with the same are the same."""


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """All hits of the rankings, best first; a hit's score is the sum of 1 / (60 + rank) over the rankings it is in
    (Cormack, Clarke and Büttcher, SIGIR 2009, doi:10.1145/1571941.1572114). Equal scores are ordered by document."""
    scores: dict[Key, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[_key(hit)] = scores.get(_key(hit), 0.0) + 1 / (FUSION_CONSTANT + rank)
    return _ordered(rankings, scores)


def convex_combination(dense: Sequence[Hit], words: Sequence[Hit], weight: float) -> list[Hit]:
    """All hits of both rankings, best first; a hit's score is ``weight`` of its scaled score among ``dense`` plus the
    rest of its scaled score among ``words`` (Bruch, Gai and Ingber, TOIS 2023, doi:10.1145/3596512).

    Cosines are scaled from the lowest to the highest of ``dense``, BM25 scores from 0 (no word in common) to the
    highest of ``words``; a hit that one ranking lacks has 0 there. Equal scores are ordered by document.
    """
    by_vector = _scaled(dense, min((hit.score for hit in dense), default=0.0))
    by_word = _scaled(words, 0.0)
    keys = by_vector.keys() | by_word.keys()
    scores = {key: weight * by_vector.get(key, 0.0) + (1 - weight) * by_word.get(key, 0.0) for key in keys}
    return _ordered([dense, words], scores)


def _scaled(hits: Sequence[Hit], lowest: float) -> dict[Key, float]:
    width = max((hit.score for hit in hits), default=lowest) - lowest
    return {_key(hit): (hit.score - lowest) / width if width > 0 else 1.0 for hit in hits}


def _ordered(rankings: Sequence[Sequence[Hit]], scores: Mapping[Key, float]) -> list[Hit]:
    hits = {_key(hit): hit for ranking in rankings for hit in ranking}
    return [
        replace(hits[key], score=scores[key]) for key in sorted(scores, key=lambda key: (-scores[key], key))
    ]


def _key(hit: Hit) -> Key:
    return hit.doc_id, hit.chunk_id
