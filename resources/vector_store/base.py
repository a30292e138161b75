"""What every vector store does with one version of an index, whatever engine is behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

TEXT_COLUMNS = ("row_id", "passage_id", "doc_id", "title", "section", "text")


class VectorStoreError(Exception):
    """The store cannot be reached or refuses what was asked; the message says what to do."""


@dataclass(frozen=True)
class Hit:
    """One search result; ``score`` is the cosine similarity of query and passage (of a hybrid search: the
    reciprocal rank fusion score)."""

    score: float
    passage_id: str
    doc_id: str
    chunk_id: int
    title: str
    section: str
    text: str


class PassageIndex(Protocol):
    """One version of an index: written once, then only read."""

    def write(self, batches: Iterable[pa.RecordBatch], dimensions: int) -> int:
        """Write the whole table (schema of :func:`index_schema`), replacing what an interrupted try left;
        returns the number of rows."""
        ...

    def optimise(self, rows: int, dimensions: int, *, exact_below: int) -> str:
        """Build the vector index that suits the size (none below ``exact_below``) and say which it is."""
        ...

    def count(self) -> int:
        """The number of rows."""
        ...

    def search(self, vector: NDArray[np.float32], k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest dot product with ``vector`` (float32 [d], unit length), best
        first. ``where`` is a condition over the columns in the engine's own language.

        Raises:
            VectorStoreError: the condition is not understood.
        """
        ...

    def search_text(self, text: str, k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest BM25 score for the words of ``text``.

        Raises:
            VectorStoreError: this engine keeps no full-text index here.
        """
        ...

    def activate(self) -> None:
        """Make this version the one that readers outside Retune see, in one step."""
        ...


def index_schema(dimensions: int) -> pa.Schema:
    """The columns of an index: the passage's texts and place, and ``vector`` (float32 [dimensions])."""
    import pyarrow as pa

    text = [(name, pa.string()) for name in TEXT_COLUMNS]
    return pa.schema([*text, ("chunk_id", pa.int32()), ("vector", pa.list_(pa.float32(), dimensions))])
