"""The user's own metadata fields, named and typed so that searches can be filtered by them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, cast

from assets_pkg.corpus.document_source import CorpusError
from resources.vector_store.base import OWN_COLUMNS, FieldType
from storage.errors import RetuneError
from storage.formats.json_values import is_deeper

TITLE = "title"
NO_METADATA = "{}"
PLACES = frozenset({"row", "sheet"})
"""Fields that say where in a file a document is."""

MAX_DEPTH = 50
"""Of lists and mappings within values."""

_NOT_WORD = re.compile(r"\W+")
_NUMBERS = {"int", "float"}
_INT64 = range(-(2**63), 2**63)


class FieldValueError(RetuneError, ValueError):
    """A value that no column can hold; the message names the field."""


def field_name(name: object) -> str:
    """The column that holds a field: lower case, with ``_`` for everything but letters, digits and ``_``."""
    return _NOT_WORD.sub("_", str(name).strip().lower())


def normalize_fields(
    fields: Mapping[Any, Any], where: str, columns: Collection[str] | None
) -> dict[str, Any]:
    """The fields by column name, with values of the five types; empty ones are left out.

    Dates become ISO 8601 texts (which sort by time), lists become lists of texts, mappings JSON. A number that 64 bits
    cannot hold exactly becomes a text. Only the values that are kept are converted.

    Args:
        fields: values as YAML, JSON, CSV or Parquet gives them.
        where: the location to name in errors.
        columns: the columns to keep (and ``title``); None for all.

    Raises:
        CorpusError: a column would have the name of one of the index's own, or two fields share a column.
        FieldValueError: a value is binary, nested too deep, or has half a surrogate pair.
    """
    found: dict[str, Any] = {}
    for key, raw in fields.items():
        name = field_name(key)
        if not (columns is None or name in columns or name == TITLE):
            continue
        if (value := _value(key, raw)) is None:
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


def usable_fields(
    fields: Mapping[str, Any], columns: Collection[str] | None
) -> tuple[dict[str, Any], list[str]]:
    """Fields that a file has without its author meaning columns of an index, and warnings about those left out.

    One that would have the name of a column of the index is named with ``_`` at its end. ``row`` and ``sheet``, the
    place in the file, are kept whatever ``columns`` are.
    """
    found: dict[str, Any] = {}
    lost: list[str] = []
    for key, value in fields.items():
        name = field_name(key)
        name = f"{name}_" if name in OWN_COLUMNS else name
        kept = None if name in PLACES else columns
        try:
            made = normalize_fields({name: value}, "", kept)
        except (CorpusError, FieldValueError):
            lost.append(f"the column {str(key)!r} is no metadata field: its name or a value cannot be one")
            continue
        if found.keys() & made.keys():
            lost.append(
                f"the column {str(key)!r} is left out: another one has that name, case and signs aside"
            )
            continue
        found |= made
    return found, lost


def as_json(fields: Mapping[str, Any]) -> str:
    """JSON text; the same for equal fields."""
    return json.dumps(fields, sort_keys=True, ensure_ascii=False) if fields else NO_METADATA


class FieldTypes:
    """The type of each field over all documents."""

    def __init__(self) -> None:
        self.types: dict[str, FieldType] = {}
        self._first: dict[str, str] = {}

    def fit(self, metadata: str, names: Collection[str]) -> tuple[str, list[str]]:
        """One document's ``metadata``, in which fields ``names`` have the type they have in earlier documents; those
        that cannot are left out, and named."""
        fields: dict[str, Any] = json.loads(metadata)
        lost: list[str] = []
        for name in names:
            known = self.types.get(name)
            if (
                name not in fields
                or known in (None, _type(fields[name]))
                or {known, _type(fields[name])} == _NUMBERS
            ):
                continue
            value = fields.pop(name)
            if known == "text" and not isinstance(value, list):
                fields[name] = str(value)
            else:
                lost.append(name)
        return as_json(fields), lost

    def add(self, metadata: str, where: str) -> None:
        """Add one document's ``metadata``; a field with integers and floats is ``float``.

        Raises:
            CorpusError: a field has another type than in an earlier document.
        """
        if metadata == NO_METADATA:
            return
        for name, value in json.loads(metadata).items():
            known, new = self.types.setdefault(name, _type(value)), _type(value)
            first = self._first.setdefault(name, where)
            if known == new:
                continue
            if {known, new} != _NUMBERS:
                raise CorpusError(
                    f"the field {name!r} is {known} in {first} and {new} in {where}: use one type (quotes "
                    "make a text), or leave it out of corpus.metadata_fields"
                )
            self.types[name] = "float"


def _value(key: object, raw: Any) -> Any:
    """The value of one field as a column holds it; None for an empty one."""
    if is_deeper(raw, MAX_DEPTH):
        raise FieldValueError(f"the field {str(key)!r} is nested more than {MAX_DEPTH} deep")
    try:
        value = _plain(raw)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FieldValueError(
            f"the field {str(key)!r} has half a surrogate pair: write a character"
        ) from error
    except (TypeError, ValueError) as error:
        raise FieldValueError(f"the field {str(key)!r}: {error}") from error
    return value


def _plain(value: Any) -> Any:
    """The value as text, number, boolean or list of texts; None for an empty one."""
    if isinstance(value, set):
        value = sorted(cast("set[Any]", value), key=str)
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in cast("list[Any]", value)]
        return [item if isinstance(item, str) else json.dumps(item) for item in items if item is not None]
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_text)
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Decimal):
        value = float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INT64 else _text(value)
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("binary, and only text can be filtered by: leave it out of corpus.metadata_fields")
    return str(value)


def _type(value: Any) -> FieldType:
    if isinstance(value, list):
        return "texts"
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "text")  # type: ignore[return-value]
