"""``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` beside the documents: a row for each, with its file's
name in ``file_name`` (the convention of Hugging Face datasets' folders)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from assets_pkg.corpus.errors import CorpusError

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
KEY = "file_name"


def find_metadata_file(root: Path) -> Path | None:
    """The folder's metadata file, if it has one.

    Raises:
        CorpusError: it has two.
    """
    found = [root / name for name in NAMES if (root / name).is_file()]
    if len(found) > 1:
        raise CorpusError(f"{root}: both {found[0].name} and {found[1].name} are there: keep one of them")
    return found[0] if found else None


def read_metadata_file(path: Path) -> dict[str, dict[str, Any]]:
    """The fields by file name (corpus-relative, with ``/``).

    Raises:
        CorpusError: the file is malformed, a row has no ``file_name``, or two rows have the same.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    rows: dict[str, dict[str, Any]] = {}
    for where, row in readers[path.suffix](path):
        name = row.pop(KEY, None)
        if not isinstance(name, str) or not name:
            raise CorpusError(f"{where}: {KEY} is missing: every row names the document that it is about")
        if name in rows:
            raise CorpusError(f"{where}: {KEY} {name!r} comes twice")
        rows[name] = row
    return rows


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: not a JSON object")
        yield where, cast("dict[str, Any]", row)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 at byte {error.start}") from error


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.csv as csv

    options = csv.ConvertOptions(strings_can_be_null=True, column_types={KEY: pa.string()})
    try:
        table = csv.read_csv(
            path, convert_options=options, parse_options=csv.ParseOptions(newlines_in_values=True)
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path}: not readable as CSV: {error}") from error
    yield from _rows(path, table.to_pylist())


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path}: not readable as Parquet: {error}") from error
    yield from _rows(path, table.to_pylist())


def _rows(path: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row
