"""Passages as the rows of an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resources.vector_store.base import TEXT_COLUMNS, index_schema

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def passage_rows(
    names: Sequence[str], texts: Sequence[str], vectors: NDArray[np.float32], titles: Sequence[str] = ()
) -> pa.RecordBatch:
    """Rows of one chunk for each name, in the columns of :func:`~resources.vector_store.base.index_schema`.

    Args:
        names: of the documents; hits have them as ``doc_id``.
        texts: what is searched by words.
        vectors: unit vectors, float32 [n, d].
        titles: of the documents; empty: they have none.
    """
    import pyarrow as pa

    schema = index_schema(vectors.shape[1])
    own = {"text": texts, "title": titles or [""] * len(names), "section": [""] * len(names)}
    columns: dict[str, Any] = {name: pa.array(own.get(name, names)) for name in TEXT_COLUMNS}
    columns["chunk_id"] = pa.array([1] * len(names), pa.int32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)
