"""Rows of Parquet files as strangers write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from storage.errors import RetuneError

_BATCH_ROWS = 1024


def read_parquet_rows(
    path: Path, error: type[RetuneError], columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows in file order, one batch of them in memory at a time; ``columns``: only these.

    Raises:
        error: the file is missing, damaged or no Parquet file, lacks a column, or has two of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as opened:
            file = cast(Any, opened)
            _check_columns(path, error, file.schema_arrow.names, columns or ())
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as problem:
        if isinstance(problem, RetuneError):
            raise
        raise error(f"{path}: not a Parquet file that can be read: {problem}") from problem


def _check_columns(path: Path, error: type[RetuneError], found: list[str], wanted: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise error(f"{path}: the column {twice[0]!r} comes twice: rename or remove one")
    if missing := [name for name in wanted if name not in found]:
        raise error(f"{path}: has no column {' and no '.join(missing)}; it has {', '.join(found) or 'none'}")
