"""An encoder of items with a cache: each text and image is embedded once per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resources.encoders.base import Role
from resources.encoders.items import Input, ItemEncoder, as_items
from resources.models.entry import Modality
from storage.embedding_cache import EmbeddingCache
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

BLOCK = 512
"""Items embedded between two commits: the most that a killed process loses."""


class CachedItems:
    """Wraps ``encoder`` with ``cache``, in which texts have the same keys as in `CachedEncoder`.

    ``hits`` and ``misses`` count the distinct items of each call that were found and that had to be embedded.
    """

    def __init__(self, encoder: ItemEncoder, cache: EmbeddingCache):
        self._encoder = encoder
        self._cache = cache
        self.hits = 0
        self.misses = 0

    @property
    def dimensions(self) -> int:
        return self._encoder.dimensions

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self._encoder.modalities

    def identity(self, role: Role) -> str:
        return self._encoder.identity(role)

    def embed(self, items: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`; the model is not loaded when all items are cached."""
        import numpy as np

        checked = as_items(items, self.modalities, "this model")
        digests = [item.digest for item in checked]
        distinct = dict(zip(digests, checked, strict=True))
        identity = self.identity(role)
        known = self._cache.get(identity, list(distinct))
        missing = [digest for digest in distinct if digest not in known]
        self.hits, self.misses = self.hits + len(known), self.misses + len(missing)
        for start in range(0, len(missing), BLOCK):
            block = missing[start : start + BLOCK]
            vectors = self._encoder.embed([distinct[digest] for digest in block], role)
            self._cache.put(identity, block, vectors)
            known.update(zip(block, vectors, strict=True))
            progress(len(known), len(distinct), "items")
        if not checked:
            return np.empty((0, self.dimensions), dtype=np.float32)
        return np.stack([known[digest] for digest in digests])

    def close(self) -> None:
        self._encoder.close()
