"""Near-duplicate questions across the whole corpus, by the similarity of their embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from resources.encoders.base import Encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_BLOCK_ROWS = 8192


class QuestionIndex:
    """The questions kept so far; refuses those that are too similar to one of them.

    Too similar is a cosine similarity >= ``threshold``. Vectors are in an unnamed file, not in memory, and are
    compared exactly, block by block: 2 * n * d operations for each question after n others.
    """

    def __init__(self, encoder: Encoder, threshold: float):
        self._encoder = encoder
        self._threshold = threshold
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._owners: list[str] = []

    def add(self, questions: Sequence[str], owners: Sequence[str]) -> list[str | None]:
        """Keep the new ones, in order. For each question None if it was kept, else what it is a near duplicate of."""
        if not questions:
            return []
        vectors = self._encoder.embed(questions, "query")
        similarities, nearest = self._nearest_kept(vectors)
        mutual = vectors @ vectors.T
        verdicts: list[str | None] = []
        kept: list[int] = []
        for row in range(len(owners)):
            best, position = float(similarities[row]), nearest[row]
            nearest_new = max(kept, key=lambda other, row=row: mutual[row, other], default=None)
            if nearest_new is not None and mutual[row, nearest_new] > best:
                best, position = float(mutual[row, nearest_new]), len(self._owners) + kept.index(nearest_new)
            if best >= self._threshold:
                earlier = [*self._owners, *(owners[one] for one in kept)][position]
                verdicts.append(f"cosine {best:.3f} with an earlier question about {earlier}")
            else:
                verdicts.append(None)
                kept.append(row)
        self._file.seek(0, 2)
        self._file.write(vectors[kept].tobytes())
        self._owners += [owners[row] for row in kept]
        return verdicts

    def close(self) -> None:
        self._file.close()

    def _nearest_kept(self, vectors: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
        """Similarity and position of the most similar kept question, for each row."""
        import numpy as np

        best = np.full(len(vectors), -1.0, np.float32)
        where = np.zeros(len(vectors), np.int64)
        for start, block in self._blocks(vectors.shape[1]):
            scores = vectors @ block.T
            closest = scores.argmax(axis=1)
            top = scores[np.arange(len(vectors)), closest]
            where = np.where(top > best, start + closest, where)
            best = np.maximum(top, best)
        return best, where

    def _blocks(self, dimensions: int) -> Iterator[tuple[int, Vectors]]:
        import numpy as np

        self._file.seek(0)
        start = 0
        while data := self._file.read(_BLOCK_ROWS * dimensions * 4):
            block = np.frombuffer(data, np.float32).reshape(-1, dimensions)
            yield start, block
            start += len(block)
