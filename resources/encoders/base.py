"""The interface of every text encoder, whatever its model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

Role = Literal["query", "passage"]


class Encoder(Protocol):
    """Turns texts into unit vectors of one model."""

    @property
    def dimensions(self) -> int:
        """Length d of the vectors."""
        ...

    def identity(self, role: Role) -> str:
        """Digest of all that determines a vector except the text: weights, prefix, maximum length, precision."""
        ...

    def embed(self, texts: Sequence[str], /, role: Role, progress: Progress = no_progress) -> Vectors:
        """Vectors of ``texts``: float32 [len(texts), d], unit length, in the same order."""
        ...
