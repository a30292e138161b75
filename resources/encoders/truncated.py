"""An encoder whose vectors are cut to their first dimensions, as Matryoshka models are trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resources.encoders.base import Role
from resources.encoders.items import Input, ItemEncoder
from resources.encoders.sentence_transformer import EncoderError
from resources.models.entry import Modality
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors


class TruncatedEncoder:
    """The first ``dimensions`` components of each vector of ``encoder``, scaled to length 1 (Matryoshka Representation
    Learning, Kusupati et al. 2022). It is put around a cache, which then holds the full vectors."""

    def __init__(self, encoder: ItemEncoder, dimensions: int):
        self._encoder = encoder
        self._dimensions = dimensions

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return self._encoder.modalities

    def identity(self, role: Role) -> str:
        return digest_json([self._encoder.identity(role), self._dimensions])

    def embed(self, items: Sequence[Input], /, role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`. Raises `EncoderError`: the components of a vector are all zero."""
        import numpy as np

        part = self._encoder.embed(items, role, progress)[:, : self._dimensions]
        norms = np.linalg.norm(part, axis=1, keepdims=True)
        if not (norms > 0).all():
            raise EncoderError(f"the first {self._dimensions} components of a vector are all zero")
        return part / norms

    def close(self) -> None:
        self._encoder.close()
