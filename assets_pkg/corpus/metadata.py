"""The user's own metadata fields: read from a file, and named and typed so that searches can be filtered by them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from assets_pkg.corpus.document_source import CorpusError
from resources.vector_store.base import OWN_COLUMNS, FieldType

TITLE = "title"
NO_METADATA = "{}"
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"
"""The field of a metadata file that names the document."""

_NOT_WORD = re.compile(r"\W+")
_INT64 = range(-(2**63), 2**63)


def field_name(name: object) -> str:
    """The column that holds a field: lower case, with ``_`` for everything but letters, digits and ``_``."""
    return _NOT_WORD.sub("_", str(name).strip().lower())


def normalize_fields(
    fields: Mapping[Any, Any], where: str, columns: Collection[str] | None
) -> dict[str, Any]:
    """The fields by column name, with values of the five types; empty ones are left out.

    Dates become ISO 8601 texts (which sort by time), lists become lists of texts, mappings JSON.

    Args:
        fields: values as YAML, JSON, CSV or Parquet gives them.
        where: the location to name in errors.
        columns: the columns to keep (and ``title``); None for all.

    Raises:
        CorpusError: a column would have the name of one of the index's own, or two fields share a column.
    """
    found: dict[str, Any] = {}
    for key, raw in fields.items():
        name, value = field_name(key), _plain(raw)
        if value is None or not (columns is None or name in columns or name == TITLE):
            continue
        if name in found:
            raise CorpusError(f"{where}: two fields are named {name!r}, case and signs aside: rename one")
        if (name in OWN_COLUMNS and name != TITLE) or not name.strip("_0123456789") or name.startswith("_"):
            raise CorpusError(
                f"{where}: the field {str(key)!r} has the name of a column of the index, or none that a filter could "
                f"use: rename it, or name the fields to keep in corpus.metadata_fields"
            )
        found[name] = value
    return found


def as_json(fields: Mapping[str, Any]) -> str:
    """JSON text; the same for equal fields."""
    return json.dumps(fields, sort_keys=True, ensure_ascii=False) if fields else NO_METADATA


class FieldTypes:
    """The type of each field over all documents."""

    def __init__(self) -> None:
        self.types: dict[str, FieldType] = {}
        self._first: dict[str, str] = {}

    def add(self, metadata: str, where: str) -> None:
        """Add one document's ``metadata``; a field with integers and floats is ``float``.

        Raises:
            CorpusError: a field has another type than in an earlier document.
        """
        for name, value in json.loads(metadata).items():
            known, new = self.types.setdefault(name, _type(value)), _type(value)
            first = self._first.setdefault(name, where)
            if known == new:
                continue
            if {known, new} != {"int", "float"}:
                raise CorpusError(
                    f"the field {name!r} is {known} in {first} and {new} in {where}: use one type, or leave it "
                    "out of corpus.metadata_fields"
                )
            self.types[name] = "float"


def _plain(value: Any) -> Any:
    """The value as text, number, boolean or list of texts; None for an empty one."""
    if isinstance(value, list | tuple | set):
        items = [_plain(item) for item in cast("list[Any]", value)]
        return [item if isinstance(item, str) else json.dumps(item) for item in items if item is not None]
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INT64 else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool) else str(value)


def _type(value: Any) -> FieldType:
    if isinstance(value, list):
        return "texts"
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "text")  # type: ignore[return-value]


# ---- the metadata file ---------------------------------------------------------------------------------------


def find_metadata_file(root: Path) -> Path | None:
    """The folder's metadata file, if it has one.

    Raises:
        CorpusError: it has two.
    """
    found = [root / name for name in METADATA_FILES if (root / name).is_file()]
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
        name = row.pop(FILE_NAME, None)
        if not isinstance(name, str) or not name:
            raise CorpusError(
                f"{where}: {FILE_NAME} is missing: every row names the document that it is about"
            )
        if name in rows:
            raise CorpusError(f"{where}: {FILE_NAME} {name!r} comes twice")
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

    options = csv.ConvertOptions(strings_can_be_null=True, column_types={FILE_NAME: pa.string()})
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
