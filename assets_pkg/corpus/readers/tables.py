"""Tables: each row of a CSV, JSONL, Parquet or spreadsheet file is a document."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assets_pkg.corpus.readers.archives import open_archive
from assets_pkg.corpus.readers.decoding import encoding_of
from assets_pkg.corpus.readers.file_document import FileDocument, FileItem, ReadError, ReadOptions, UnreadPart

TEXT_NAMES = ("text", "content", "body")
"""Columns that are a row's text where none is chosen, the first that there is."""

TITLE_NAMES = ("title",)
ID_NAMES = ("id", "_id")
MAX_FIELD_CHARS = 10_000_000
SAMPLE_BYTES = 1_000_000
DELIMITERS = ",;\t|"
SNIFFED_ROWS = 50
DAMAGED_ROW = "damaged row"

_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_DECIMAL = re.compile(r"-?\d{1,15}\.\d{1,15}")


def read_csv(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """Comma, semicolon, tab or bar separated values; the first row has the names."""
    with path.open("rb") as stream:
        sample = stream.read(SAMPLE_BYTES)
    # A sample that ends within a character is not UTF-8.
    whole = sample[: sample.rfind(b"\n") + 1] or sample if len(sample) == SAMPLE_BYTES else sample
    encoding, warnings = encoding_of(whole)

    def rows() -> Iterator[tuple[int, dict[str, Any] | UnreadPart]]:
        with path.open(encoding=encoding, errors="replace", newline="") as lines:
            yield from _named(_numbered(csv.reader(lines, delimiter=delimiter)))

    with _long_fields():
        delimiter = _delimiter(whole.decode(encoding, "replace"), path)
        yield from _documents(_with_numbers(rows), options, warnings, where="")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields may have :data:`MAX_FIELD_CHARS`; the limit is the whole process's, and others rely on theirs."""
    before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(sample: str, path: Path) -> str:
    """The one that splits most of the first rows into as many fields as the header has."""
    if path.suffix.lower() in {".tsv", ".tab"}:
        return "\t"
    lines = sample.splitlines(keepends=True)[:SNIFFED_ROWS]

    def fitting(delimiter: str) -> tuple[int, int]:
        try:
            rows = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        except csv.Error:
            return 0, 0
        fields = rows[0] if rows else 0
        return (rows.count(fields), fields) if fields > 1 else (0, 0)

    return max(DELIMITERS, key=fitting)


def _with_numbers(
    rows: Callable[[], Iterator[tuple[int, dict[str, Any] | UnreadPart]]],
) -> Iterator[tuple[int, dict[str, Any] | UnreadPart]]:
    """The rows, with the values of a column as numbers if all of them are numbers that come back as they are
    written."""
    fits: dict[str, set[type]] = {}
    for _, row in rows():
        for name, value in row.items() if isinstance(row, dict) else ():
            if value.strip():
                fits[name] = fits.get(name, {int, float}) & _spelt_as(value.strip())
    for number, row in rows():
        if isinstance(row, dict):
            row = {name: _number(value, fits.get(name, set())) for name, value in row.items()}
        yield number, row


def _spelt_as(value: str) -> set[type]:
    if _INTEGER.fullmatch(value):
        return {int, float}
    return {float} if _DECIMAL.fullmatch(value) and repr(float(value)) == value else set()


def _number(value: str, fits: set[type]) -> Any:
    digits = value.strip()  # of more kinds of blanks than int and float ignore
    if not fits or not digits:
        return value
    return int(digits) if int in fits else float(digits)


def _numbered(rows: Any) -> Iterator[tuple[int, list[str] | UnreadPart]]:
    """The rows with their numbers; the first is 1. One that is malformed ends the file."""
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, UnreadPart(str(number), DAMAGED_ROW, f"{error}; the rows after it are not read")
            return
        yield number, row


def _named(
    rows: Iterator[tuple[int, list[Any] | UnreadPart]],
) -> Iterator[tuple[int, dict[str, Any] | UnreadPart]]:
    """Rows as fields by the names in the first row that is not empty."""
    names: list[str] = []
    for number, row in rows:
        if isinstance(row, UnreadPart):
            yield number, row
        elif not any(_shown(value) for value in row):
            continue
        elif not names:
            names = _distinct(row)
        else:
            more = [f"column {place}" for place in range(len(names) + 1, len(row) + 1)]
            yield number, dict(zip([*names, *more], row, strict=False))


def _distinct(header: list[Any]) -> list[str]:
    names: list[str] = []
    for place, value in enumerate(header, start=1):
        name = _shown(value) or f"column {place}"
        names.append(name if name not in names else f"{name} {place}")
    return names


def read_jsonl(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """A JSON object a line."""
    with path.open("rb") as stream:
        yield from _documents(_json_rows(stream), options, [], where="")


def _json_rows(stream: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | UnreadPart]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line.decode("utf-8-sig"))
        except ValueError:
            yield number, UnreadPart(str(number), DAMAGED_ROW, "not JSON in UTF-8")
            continue
        except RecursionError:
            yield number, UnreadPart(str(number), DAMAGED_ROW, "its values are nested too deep")
            continue
        yield (
            number,
            row if isinstance(row, dict) else UnreadPart(str(number), DAMAGED_ROW, "not a JSON object"),
        )


def read_parquet(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=256) for row in batch.to_pylist())
            yield from _documents(enumerate(rows, start=1), options, [], where="")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ReadError("damaged", f"not readable as Parquet ({str(error).splitlines()[0]})") from error


def read_spreadsheet(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """All sheets of a workbook (XLSX, XLSB, XLS, ODS); each row is a document, the first row of a sheet has the
    names. Formulas are read as the values that were saved with them; macros are not read."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, ZipError

    with path.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if is_archive:
        with open_archive(path, options.max_bytes):
            pass
    try:
        workbook = CalamineWorkbook.from_path(str(path))
        for sheet in workbook.sheet_names:
            rows = _cells(workbook.get_sheet_by_name(sheet))
            yield from _documents(_named(rows), options, [], where=sheet)
    except PasswordError as error:
        raise ReadError("encrypted", "it has a password: save it without one") from error
    except (CalamineError, ZipError, OSError) as error:
        raise ReadError("damaged", f"not a spreadsheet ({error})") from error


def _cells(sheet: Any) -> Iterator[tuple[int, list[Any]]]:
    first = sheet.start[0] + 1 if sheet.start else 1
    for number, row in enumerate(sheet.to_python(skip_empty_area=True), start=first):
        yield number, [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in row]


def _documents(
    rows: Iterable[tuple[int, Mapping[str, Any] | UnreadPart]],
    options: ReadOptions,
    warnings: list[str],
    where: str,
) -> Iterator[FileItem]:
    """A document for each row. ``where`` names the sheet; its documents are ``SHEET/ROW``."""
    prefix = f"{where}/" if where else ""
    seen: set[str] = set()
    for number, row in rows:
        if isinstance(row, UnreadPart):
            yield UnreadPart(f"{prefix}{row.part}", row.kind, row.detail)
            continue
        columns = _Columns.of(row, options)
        if missing := columns.missing:
            detail = f"it has no column {missing!r} (its columns: {', '.join(map(str, row))})"
            yield UnreadPart(f"{prefix}{number}", "no such column", detail)
            continue
        named = _shown(row[columns.name]) if columns.name else ""
        part = named if named and named not in seen else str(number)
        seen.add(part)
        place = {"row": number, **({"sheet": where} if where else {})}
        rest = {key: value for key, value in row.items() if key in columns.rest and _shown(value)}
        title = _shown(row[columns.title]) if columns.title else ""
        yield FileDocument(_text(row, columns), title, {**rest, **place}, warnings, f"{prefix}{part}")
        warnings = []  # of the file, said once


class _Columns:
    """Which columns of a row are its text, its title, its name and its metadata."""

    def __init__(self, text: list[str], title: str | None, name: str | None, rest: set[str], missing: str):
        self.text, self.title, self.name, self.rest, self.missing = text, title, name, rest, missing
        self.labelled = len(text) != 1

    @staticmethod
    def of(row: Mapping[str, Any], options: ReadOptions) -> _Columns:
        chosen = [*(options.text_columns or []), *filter(None, (options.title_column, options.id_column))]
        missing = next((name for name in chosen if name not in row), "")
        title = options.title_column or _called(row, TITLE_NAMES)
        name = options.id_column or _called(row, ID_NAMES)
        text = options.text_columns or ([found] if (found := _called(row, TEXT_NAMES)) else [])
        if not text:  # everything is text
            return _Columns([key for key in row if key != title], title, name, set(), missing)
        return _Columns(text, title, name, set(row) - {*text, title, name}, missing)


def _called(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    by_name = {str(key).strip().lower(): key for key in row}
    return next((by_name[name] for name in names if name in by_name), None)


def _text(row: Mapping[str, Any], columns: _Columns) -> str:
    values = [(name, _shown(row.get(name))) for name in columns.text]
    if not columns.labelled:
        return values[0][1]
    with io.StringIO() as text:
        text.writelines(f"{name}: {value}\n" for name, value in values if value)
        return text.getvalue()


def _shown(value: Any) -> str:
    """A cell as text; nothing for an empty one."""
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value).strip()
