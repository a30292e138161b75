"""An encoder with a cache: each text is embedded once per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resources.encoders.base import Encoder, Role
from storage.digests import digest_text
from storage.embedding_cache import EmbeddingCache
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

BLOCK = 2048
"""Texts embedded between two commits: the most that a killed process loses."""


class CachedEncoder:
    """Wraps ``encoder`` with ``cache``; without one, a text is embedded once per call.

    ``hits`` and ``misses`` count the distinct texts of each call that were found and that had to be embedded.
    """

    def __init__(self, encoder: Encoder, cache: EmbeddingCache | None = None):
        self._encoder = encoder
        self._cache = cache
        self.hits = 0
        self.misses = 0

    @property
    def dimensions(self) -> int:
        """Length d of the vectors; asks the wrapped encoder."""
        return self._encoder.dimensions

    def identity(self, role: Role) -> str:
        """The wrapped encoder's."""
        return self._encoder.identity(role)

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        """Vectors of ``texts``: float32 [len(texts), d], unit length, in the same order.

        A text that occurs more than once is embedded once. The wrapped encoder's model is not loaded when all
        texts are cached.
        """
        import numpy as np

        digests = [digest_text(text) for text in texts]
        first: dict[str, int] = {}
        for index, digest in enumerate(digests):
            first.setdefault(digest, index)
        rows = {digest: row for row, digest in enumerate(first)}
        distinct = [texts[index] for index in first.values()]
        vectors = self._distinct(list(rows), distinct, role, progress)
        if len(rows) == len(texts):
            return vectors
        return vectors[np.fromiter((rows[digest] for digest in digests), dtype=np.intp, count=len(digests))]

    def unknown(self, texts: Sequence[str], role: Role) -> list[int]:
        """Indices of the texts whose vectors are not in the cache."""
        return self._recall(self.identity(role), [digest_text(text) for text in texts])[1]

    def count_known(self, texts: Sequence[str], role: Role) -> int:
        """How many of the texts have a vector in the cache; none is read."""
        if self._cache is None:
            return 0
        return self._cache.count(self.identity(role), [digest_text(text) for text in texts])

    def keep(self, texts: Sequence[str], role: Role, vectors: Vectors) -> None:
        """Add ``vectors`` (float32 [len(texts), d]) of another encoder with the same identity to the cache."""
        if self._cache is not None:
            self._cache.put(self.identity(role), [digest_text(text) for text in texts], vectors)

    def _distinct(
        self, digests: Sequence[str], texts: Sequence[str], role: Role, progress: Progress
    ) -> Vectors:
        """Vectors of distinct texts, float32 [len(texts), d]."""
        import numpy as np

        identity = self.identity(role)
        vectors, missing = self._recall(identity, digests)
        if vectors is None:
            vectors = np.empty((len(digests), self.dimensions), dtype=np.float32)
        hits = len(digests) - len(missing)
        self.hits, self.misses = self.hits + hits, self.misses + len(missing)
        progress(hits, len(digests), "texts", cached=hits)
        for start in range(0, len(missing), BLOCK):
            rows = missing[start : start + BLOCK]
            report = _Offset(progress, hits + start, len(digests), hits)
            vectors[rows] = self._encoder.embed([texts[row] for row in rows], role, report)
            if self._cache is not None:
                self._cache.put(identity, [digests[row] for row in rows], vectors[rows])
        return vectors

    def _recall(self, identity: str, digests: Sequence[str]) -> tuple[Vectors | None, list[int]]:
        """Cached vectors in their rows (None if there are none), and the rows without."""
        import numpy as np

        if self._cache is None:
            return None, list(range(len(digests)))
        vectors: Vectors | None = None
        missing: list[int] = []
        for start in range(0, len(digests), BLOCK):
            block = digests[start : start + BLOCK]
            found = self._cache.get(identity, block)
            for row, digest in enumerate(block, start):
                if digest not in found:
                    missing.append(row)
                    continue
                if vectors is None:
                    vectors = np.empty((len(digests), len(found[digest])), dtype=np.float32)
                vectors[row] = found[digest]
        return vectors, missing


@dataclass(frozen=True)
class _Offset:
    """Progress of one block, reported as progress of all texts."""

    progress: Progress
    before: int
    total: int
    cached: int

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.progress(self.before + done, self.total, unit, cached=self.cached, **figures)
