"""Writes dataclass rows into a Parquet file, with a bounded number of them in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 2000
BATCH_CHARACTERS = 8_000_000


class RowWriter:
    """Writes rows of one dataclass (fields ``str`` and ``int``) as Parquet columns of the same names.

    The file is made when the first rows are written: whatever yields them is at work while pyarrow is imported.
    """

    def __init__(self, path: Path, row_type: type) -> None:
        self._path, self._row_type = path, row_type
        self._values = attrgetter(*(field.name for field in fields(row_type)))
        self._rows: list[tuple[Any, ...]] = []
        self._characters = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    @cached_property
    def _writer(self) -> pq.ParquetWriter:
        import pyarrow.parquet as pq

        return pq.ParquetWriter(self._path, self._schema)

    @cached_property
    def _schema(self) -> pa.Schema:
        return _schema(self._row_type)

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
