"""One version of the index, open for searching with the model that built it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from assets_pkg.reindex.index import open_index
from resources.encoders.base import Role
from resources.vector_store.base import Hit
from storage.artifacts import VectorIndex
from storage.digests import digest_json
from storage.vectors import leading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FUSION_CONSTANT = 60
FUSION_DEPTH = 100


class QueryEncoder(Protocol):
    """The part of an encoder that search needs."""

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Answer:
    """What was found, best first, and by what: the version of the index and the digest of its model."""

    hits: list[Hit]
    index: str
    model: str


class OneAtATime:
    """An encoder that threads may share: models are loaded at first use, and tokenizers are made for one thread."""

    def __init__(self, encoder: QueryEncoder):
        self._encoder = encoder
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        with self._lock:
            return self._encoder.embed(texts, role)


class IndexReader:
    """An open index version and an encoder of the very model that it names."""

    def __init__(self, index: VectorIndex, encoder: QueryEncoder):
        described = index.describe()
        self.version = index.version
        self.model: str = described["model_digest"]
        self.encoded_by = encoded_by(index)
        self._dimensions: int = described["dimensions"]
        self._opened = open_index(index.path, described["place"])
        self._encoder = encoder

    def search(self, text: str, k: int = 10, where: str | None = None, *, hybrid: bool = False) -> Answer:
        """The ``k`` passages nearest to ``text``, best first.

        ``where`` is a condition over the index's columns in the engine's language (LanceDB: SQL). ``hybrid``
        fuses vector and full-text search by reciprocal rank (Cormack et al. 2009, constant 60).

        Raises:
            VectorStoreError: the condition makes no sense, or the engine has no full-text search.
        """
        vector = leading(self._encoder.embed([text], "query"), self._dimensions)[0]
        if not hybrid:
            return self._answer(self._opened.search(vector, k, where))
        deep = max(k, FUSION_DEPTH)
        rankings = [self._opened.search(vector, deep, where), self._opened.search_text(text, deep, where)]
        return self._answer(fuse(rankings)[:k])

    def _answer(self, hits: list[Hit]) -> Answer:
        return Answer(hits, self.version, self.model)


def encoded_by(index: VectorIndex) -> str:
    """Names the model of an index with its prefixes and lengths: indexes that share it share query vectors."""
    described = index.describe()
    return digest_json([described["model_digest"], described["contract"]])


def fuse(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion: each hit's score is the sum of 1 / (60 + rank) over the rankings it is in."""
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            place = (hit.doc_id, hit.chunk_id)
            scores[place] = scores.get(place, 0.0) + 1 / (FUSION_CONSTANT + rank)
            hits[place] = hit
    order = sorted(scores, key=lambda place: (-scores[place], place))
    return [replace(hits[place], score=scores[place]) for place in order]
