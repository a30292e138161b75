"""Writes dataclass rows into a Parquet file, with a bounded number of them in memory."""

from __future__ import annotations

from dataclasses import asdict, fields
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
        self._rows: list[dict[str, Any]] = []
        self._characters = 0
        self._writer = pq.ParquetWriter(path, self._schema)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: Any) -> None:
        self._rows.append(asdict(row))
        self._characters += len(row.text)
        if len(self._rows) >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()
            self._characters = 0


def _schema(row_type: type) -> pa.Schema:
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64()}
    return pa.schema([(field.name, types[str(field.type)]) for field in fields(row_type)])
