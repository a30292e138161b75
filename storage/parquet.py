"""Writes dataclass rows into a Parquet file, with a bounded number of them in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 2000
BATCH_CHARACTERS = 8_000_000


class RowWriter:
    """Writes rows of one dataclass (fields ``str`` and ``int``) as Parquet columns of the same names."""

    def __init__(self, path: Path, row_type: type) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema(row_type)
        self._values = attrgetter(*self._schema.names)
        self._rows: list[tuple[Any, ...]] = []
        self._characters = 0
        self._writer = pq.ParquetWriter(path, self._schema)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: Any) -> None:
        self._rows.append(self._values(row))
        self._characters += len(row.text)
        if len(self._rows) >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                strings(column) if pa.types.is_string(kind) else integers(column)
                for column, kind in zip(columns, self._schema.types, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows.clear()
            self._characters = 0


def strings(values: Iterable[str]) -> pa.Array[Any]:
    """A column of texts, of at most 2 GB. Unlike ``pyarrow.array`` this does not import pandas, which takes longer than
    writing a thousand documents.

    Raises:
        OverflowError: they are longer.
    """
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    offsets = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def integers(values: Iterable[int]) -> pa.Array[Any]:
    """A column of 64-bit integers, also without pandas."""
    import pyarrow as pa

    data = array("q", values)
    return pa.Array.from_buffers(pa.int64(), len(data), [None, pa.py_buffer(data)])


def integer_lists(values: Sequence[Sequence[int]]) -> pa.Array[Any]:
    """A column of lists of 64-bit integers, also without pandas."""
    import pyarrow as pa

    offsets = pa.py_buffer(array("i", accumulate(map(len, values), initial=0)))
    items: pa.Array[Any] = integers(chain.from_iterable(values))
    return pa.Array.from_buffers(pa.list_(pa.int64()), len(values), [None, offsets], children=[items])


def _schema(row_type: type) -> pa.Schema:
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64()}
    return pa.schema([(field.name, types[str(field.type)]) for field in fields(row_type)])
