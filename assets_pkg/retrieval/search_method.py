"""How a query is answered from an index: by vectors, by words (BM25), or by both fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assets_pkg.retrieval.errors import RetrievalError
from assets_pkg.retrieval.fusion import convex_combination, reciprocal_rank_fusion
from resources.vector_store.base import Hit

Kind = Literal["dense", "bm25", "rrf", "convex"]
FUSION_DEPTH = 100
"""Hits of each ranking that are fused."""


@dataclass(frozen=True)
class SearchMethod:
    """``dense``: by the vectors' cosine. ``bm25``: by the query's words. ``rrf``: both, by reciprocal rank fusion.
    ``convex``: both, by a convex combination of their scores; ``weight`` is the share of the vectors."""

    kind: Kind
    weight: float | None = None

    @classmethod
    def parse(cls, text: str) -> SearchMethod:
        """``dense``, ``bm25``, ``rrf``, or ``convex:0.5``.

        Raises:
            RetrievalError: it is none of them.
        """
        kind, _, weight = text.partition(":")
        if kind in ("dense", "bm25", "rrf") and not weight:
            return cls(kind)
        try:
            share = float(weight)
        except ValueError:
            share = 0.0
        if kind != "convex" or not 0 < share < 1:
            raise RetrievalError(
                f"search method {text!r}: must be dense, bm25, rrf or convex:WEIGHT (0 < WEIGHT < 1)"
            )
        return cls("convex", share)

    def __str__(self) -> str:
        return f"convex:{self.weight:g}" if self.kind == "convex" else self.kind

    @property
    def by_vectors(self) -> bool:
        return self.kind != "bm25"

    @property
    def by_words(self) -> bool:
        return self.kind != "dense"

    def rank(self, dense: Sequence[Hit], words: Sequence[Hit]) -> list[Hit]:
        """The hits of both rankings (each best first) in the order of this method, with its scores."""
        if self.kind == "convex":
            assert self.weight is not None
            return convex_combination(dense, words, self.weight)
        if self.kind == "rrf":
            return reciprocal_rank_fusion([dense, words])
        return list(dense if self.kind == "dense" else words)


DENSE = SearchMethod("dense")
