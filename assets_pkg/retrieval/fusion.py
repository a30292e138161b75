"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, doi:10.1145/1571941.1572114)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from resources.vector_store.base import Hit

FUSION_CONSTANT = 60
"""The paper's k: the larger, the less the first ranks outweigh the later ones."""

FUSION_DEPTH = 100
"""Hits of each ranking that hybrid search fuses."""


def fuse(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """All hits of the rankings, best first; a hit's score is the sum of 1 / (60 + rank) over the rankings it is in.

    Hits are the same if document and chunk are; equal scores are ordered by these.
    """
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            key = (hit.doc_id, hit.chunk_id)
            scores[key] = scores.get(key, 0.0) + 1 / (FUSION_CONSTANT + rank)
            hits[key] = hit
    return [
        replace(hits[key], score=scores[key]) for key in sorted(scores, key=lambda key: (-scores[key], key))
    ]
