"""The file beside the documents that holds their fields, one row for each document."""

from __future__ import annotations

import io
import math
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from assets_pkg.corpus.document_source import CorpusError, Skipped
from storage.formats.json_values import decode, parse_json, read_lines, read_whole
from storage.formats.parquet_rows import read_parquet_rows

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "file_name"
"""The field of a metadata file that names the document."""

UNMATCHED = "metadata without a document"

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_EXACT = 2**53
"""Up to here a float holds every whole number."""


def find_metadata_file(root: Path) -> Path | None:
    """The folder's metadata file, if it has one.

    Raises:
        CorpusError: it has two.
    """
    found = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if len(found) > 1:
        raise CorpusError(f"{root}: both {found[0].name} and {found[1].name} are there: keep one of them")
    return found[0] if found else None


def read_metadata_file(
    path: Path, documents: Collection[str]
) -> tuple[dict[str, dict[str, Any]], list[Skipped]]:
    """The fields of each document, and the rows that are about none of them.

    A row names its document by the path in the corpus. ``./`` before it, ``\\`` for ``/`` and another Unicode form (as
    macOS writes it) are the same name, where only one document has it.

    Raises:
        CorpusError: the file is malformed, a column comes twice, a row has no ``file_name``, or two rows are about one
            document.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    names = _Names(documents)
    rows: dict[str, dict[str, Any]] = {}
    unmatched: list[Skipped] = []
    for where, row in readers[path.suffix](path):
        written = row.pop(FILE_NAME, None)
        if not isinstance(written, str) or not written:
            raise CorpusError(
                f"{where}: {FILE_NAME} is missing: every row names the document that it is about"
            )
        name = names.find(written)
        if name is None:
            unmatched.append(
                Skipped(_printable(written), UNMATCHED, f"{where} names no document that is read")
            )
        elif name in rows:
            raise CorpusError(f"{where}: {FILE_NAME} {name!r} comes twice")
        else:
            rows[name] = row
    return rows, unmatched


class _Names:
    """Finds documents by name: as it is written, else by what it means."""

    def __init__(self, documents: Collection[str]) -> None:
        self._documents = frozenset(documents)
        self._by_meaning: defaultdict[str, list[str]] = defaultdict(list)
        for name in documents:
            self._by_meaning[_meaning(name)].append(name)

    def find(self, name: str) -> str | None:
        if name in self._documents:
            return name
        found = self._by_meaning.get(_meaning(name), [])
        return found[0] if len(found) == 1 else None


def _meaning(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in read_lines(path, CorpusError):
        row = parse_json(line, where, CorpusError, surrogates=True)
        if not isinstance(row, dict):
            raise CorpusError(f"{where}: not a JSON object")
        yield where, cast("dict[str, Any]", row)


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with the types that Arrow finds, but every number as it is written if its spelling would be lost. Only an
    empty cell is nothing."""
    import pyarrow as pa
    import pyarrow.csv as csv

    data = _utf8(path)
    parsing = csv.ParseOptions(newlines_in_values=True)

    def read(types: dict[str, Any]) -> pa.Table:
        options = csv.ConvertOptions(strings_can_be_null=True, null_values=[""], column_types=types)
        try:
            return csv.read_csv(io.BytesIO(data), convert_options=options, parse_options=parsing)
        except pa.ArrowException as error:
            raise CorpusError(f"{path}: not readable as CSV: {error}") from error

    typed = read({FILE_NAME: pa.string()})
    _check_columns(path, typed.column_names)
    written = read(dict.fromkeys(typed.column_names, pa.string())).to_pydict()
    columns = {
        name: values if _keeps_spelling(values, written[name]) else written[name]
        for name, values in typed.to_pydict().items()
    }
    for number in range(typed.num_rows):
        yield f"{path} row {number + 1}", {name: values[number] for name, values in columns.items()}


def _utf8(path: Path) -> bytes:
    """The file's bytes without a byte order mark, checked to be UTF-8 line by line."""
    for where, line in read_lines(path, CorpusError):
        decode(line, where, CorpusError)
    return read_whole(path, CorpusError)


def _keeps_spelling(values: Sequence[Any], written: Sequence[str | None]) -> bool:
    """Whether every number of a column comes back as it was written."""
    return all(_spelt(value, text) for value, text in zip(values, written, strict=True))


def _spelt(value: Any, text: str | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or text is None:
        return True
    if isinstance(value, float) and math.isfinite(value):
        return repr(value) == text or (_WHOLE.fullmatch(text) is not None and abs(value) <= _EXACT)
    return str(value) == text and math.isfinite(value)


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(read_parquet_rows(path, CorpusError), start=1):
        yield f"{path} row {number}", row


def _check_columns(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CorpusError(f"{path}: the column {twice[0]!r} comes twice: rename or remove one")
