"""LanceDB: the embedded vector store. One folder is one index version; nothing in it changes once published.

API: https://lancedb.github.io/lancedb/python/python/ (0.40).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

TABLE = "passages"


@dataclass(frozen=True)
class Hit:
    """One search result; ``score`` is the cosine similarity of query and passage."""

    score: float
    passage_id: str
    doc_id: str
    chunk_id: int
    title: str
    section: str
    text: str


class LanceIndex:
    """The index in one folder."""

    def __init__(self, folder: Path):
        import lancedb

        self.folder = folder
        self._db: Any = lancedb.connect(str(folder))

    def write(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Write the whole table from a stream of record batches; returns the number of rows."""
        self._db.create_table(TABLE, data=iter(batches), schema=schema, mode="overwrite")
        return self.count()

    def make_approximate(self, rows: int, dimensions: int) -> str:
        """Build an IVF-PQ index: about sqrt(rows) partitions, sub-vectors of 8 dimensions."""
        from lancedb.index import IvfPq

        partitions = max(1, round(rows**0.5))
        subvectors = max(1, dimensions // 8)
        config = IvfPq(distance_type="dot", num_partitions=partitions, num_sub_vectors=subvectors)
        self._table().create_index("vector", config=config)
        return f"IVF-PQ, {partitions} partitions, {subvectors} sub-vectors"

    def count(self) -> int:
        return int(self._table().count_rows())

    def search(self, vector: NDArray[np.float32], k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest dot product with ``vector`` (float32 [d], unit length).

        ``where`` is an SQL condition over the columns. Approximate indexes are searched with re-ranking.
        """
        query = self._table().search(vector, vector_column_name="vector").distance_type("dot").limit(k)
        query = query.nprobes(32).refine_factor(8)
        if where:
            query = query.where(where, prefilter=True)
        return [_hit(row) for row in query.to_list()]

    def _table(self) -> Any:
        return self._db.open_table(TABLE)


def _hit(row: dict[str, Any]) -> Hit:
    # LanceDB's "dot" distance is 1 - dot product.
    fields = {name: row[name] for name in ("passage_id", "doc_id", "chunk_id", "title", "section", "text")}
    return Hit(score=1.0 - float(row["_distance"]), **fields)
