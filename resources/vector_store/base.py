"""The interface of every vector store: one version of an index, whatever its engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from storage.errors import RetuneError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

TEXT_COLUMNS = ("row_id", "passage_id", "doc_id", "title", "section", "text")
OWN_COLUMNS = (*TEXT_COLUMNS, "chunk_id", "vector")

FieldType = Literal["text", "int", "float", "bool", "texts"]
"""Of a user's own column; ``texts`` is a list of them."""


IndexType = Literal["exact", "ivf", "hnsw"]
"""How vectors are looked up: all of them, those of the nearest clusters, or along a graph of neighbours."""


class VectorStoreError(RetuneError):
    """The store cannot be reached or refuses what was asked; the message says what to do."""


@dataclass(frozen=True)
class Hit:
    """One search result; ``score`` is that of the search method: the cosine similarity of query and passage, the BM25
    score, or the fused one."""

    score: float
    passage_id: str
    doc_id: str
    chunk_id: int
    title: str
    section: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The user's own columns that have a value here."""


class PassageIndex(Protocol):
    """One version of an index: written once, then only read."""

    @property
    def full_text(self) -> bool:
        """Whether it can be searched by words."""
        ...

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
        """Write the whole table (``schema``: of :func:`index_schema`), replacing the rows of an interrupted attempt;
        returns the number of rows.

        Raises:
            VectorStoreError: a server refuses, or the alias is another project's; the message says what to do.
        """
        ...

    def optimise(
        self, kind: IndexType, rows: int, dimensions: int, parameters: Mapping[str, int] | None = None
    ) -> str:
        """Build the vector index of that kind and return its description. ``parameters`` are the engine's own, for
        those chosen by size.

        Raises:
            VectorStoreError: the engine has no such parameter, or not such values.
        """
        ...

    def count(self) -> int:
        """The number of rows."""
        ...

    def exists(self) -> bool:
        """Whether the engine holds this version (a server may have lost it, or been replaced)."""
        ...

    def holds(self, doc_id: str) -> bool:
        """Whether a passage of the document is in the index."""
        ...

    def passages_of(self, doc_id: str, first: int, last: int) -> list[Hit]:
        """The document's passages ``first`` to ``last`` (their ``chunk_id``), as far as there are any, in order; their
        score is 0."""
        ...

    def search(self, vector: NDArray[np.float32], k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest dot product with ``vector`` (float32 [d], unit length), best
        first. ``where`` is a condition over the columns: comparisons with ``AND``, ``OR``, ``NOT``, ``IN`` and
        ``array_contains(column, text)`` mean the same to every engine.

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

    def is_active(self) -> bool:
        """Whether it is the version that readers outside Retune see."""
        ...

    def drop(self) -> None:
        """Delete what the engine keeps of this version outside the version's own folder."""
        ...


def index_schema(dimensions: int, fields: Mapping[str, FieldType] | None = None) -> pa.Schema:
    """The columns of an index: the passage's texts and position, the user's own ``fields`` (null where a document has
    none), and ``vector`` (float32 [dimensions])."""
    import pyarrow as pa

    types: dict[FieldType, pa.DataType] = {
        "text": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "texts": pa.list_(pa.string()),
    }
    own = [(name, types[kind]) for name, kind in (fields or {}).items()]
    text = [(name, pa.string()) for name in TEXT_COLUMNS]
    return pa.schema([*text, ("chunk_id", pa.int32()), *own, ("vector", pa.list_(pa.float32(), dimensions))])


def described(name: str, parameters: Mapping[str, int]) -> str:
    """The description of a vector index, for the manifest."""
    return ", ".join([name, *(f"{key} {value}" for key, value in parameters.items())])


def refused_parameters(name: str, parameters: Mapping[str, int], error: Exception) -> VectorStoreError:
    """The error of an engine that rejects the parameters of a vector index."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return VectorStoreError(f"{described(name, parameters)}: {reason} (reindex.index_parameters)")
