"""JSON and JSON Lines as strangers write them: the one way in which all readers take them apart.

Lines end at ``\\n`` alone (a text may hold U+2028 or U+0085, at which ``str.splitlines`` cuts), a byte order mark is
skipped, blank lines are too. What is refused is named with file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import ValidationError

from storage.errors import RetuneError

MAX_DEPTH = 100
"""Of lists and objects within one another; what writes JSON gives up at a few hundred."""

TOO_DEEP = f"lists or objects are nested more than {MAX_DEPTH} deep"

BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_KEY_END = re.compile(rb'"\s*:')
_ESCAPED_KEY_END = re.compile(rb'\\"\s*:')


def read_objects(path: Path, error: type[RetuneError]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``path:line`` and the object of every line of a JSON Lines file, one in memory at a time.

    Raises:
        error: the file cannot be read, or a line is not an object of :func:`parse_strict`.
    """
    for where, line in read_lines(path, error):
        row = parse_strict(line, where, error)
        if not isinstance(row, dict):
            raise error(f"{where}: must be a JSON object")
        yield where, cast("dict[str, Any]", row)


def read_strict(path: Path, error: type[RetuneError]) -> Any:
    """The value of a JSON file.

    Raises:
        error: it cannot be read, or is not what :func:`parse_strict` takes.
    """
    return parse_strict(read_whole(path, error), str(path), error)


def read_whole(path: Path, error: type[RetuneError]) -> bytes:
    """The bytes of a file without a byte order mark.

    Raises:
        error: it cannot be read.
    """
    try:
        return path.read_bytes().removeprefix(BOM)
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem


def read_lines(path: Path, error: type[RetuneError]) -> Iterator[tuple[str, bytes]]:
    """``path:line`` and the bytes of every line that is not blank.

    Raises:
        error: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = line.removeprefix(BOM) if number == 1 else line
                if text.strip():
                    yield f"{path}:{number}", text
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem


def decode(data: bytes, where: str, error: type[RetuneError]) -> str:
    """UTF-8 text.

    Raises:
        error: it is in another encoding.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        what = "UTF-16" if data.startswith(_UTF16) else f"byte {data[problem.start]:#04x} at {problem.start}"
        line = data.count(b"\n", 0, problem.start)
        place = f"{where}:{line + 1}" if line else where
        raise error(f"{place}: not UTF-8 ({what}): save the file as UTF-8") from problem


def parse_json(data: bytes, where: str, error: type[RetuneError], *, surrogates: bool = False) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        data: the text.
        where: file and line, for the message.
        error: what is raised.
        surrogates: whether halves of surrogate pairs (``\\\\ud800``) may be in it; no file can hold them.

    Raises:
        error: not UTF-8, not JSON, nested deeper than :data:`MAX_DEPTH`, with half a surrogate pair, or with a key that
            comes twice in one object.
    """
    text = decode(data, where, error)
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except _KeyTwice as problem:
        raise error(f"{where}: {problem}") from problem
    except RecursionError as problem:
        raise error(f"{where}: {TOO_DEEP}") from problem
    except ValueError as problem:
        raise error(f"{where}: not JSON: {problem}") from problem
    if is_deeper(value, MAX_DEPTH):
        raise error(f"{where}: {TOO_DEEP}")
    if not surrogates and "\\u" in text and _has_half_pair(value):
        raise error(f"{where}: has half a surrogate pair: write the character itself")
    return value


class _KeyTwice(RetuneError, ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _KeyTwice(f"the key {twice!r} comes twice in one object: keep one")
    return found


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    _object(pairs)


def parse_strict(data: bytes, where: str, error: type[RetuneError]) -> Any:
    """The value of a JSON text that can be written again: without NaN, halves of surrogate pairs and deep nesting, and
    with each key once in its object.

    Raises:
        error: it is another text; the message has ``where`` and what to do.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        decode(data, where, error)
        raise error(f"{where}: not JSON: {problem}") from problem
    keys = _count_keys(value, MAX_DEPTH)
    if keys is None:
        raise error(f"{where}: {TOO_DEEP}")
    if not _writes_keys(data, keys, value):
        _refuse_key_twice(data, where, error)
    return value


def _count_keys(value: Any, limit: int) -> int | None:
    """The keys of all objects of a parsed JSON text; None if they are nested more than ``limit`` deep."""
    level, keys = [value], 0
    for _ in range(limit + 1):
        below: list[Any] = []
        for each in level:
            if type(each) is dict:
                keys += len(cast("dict[str, Any]", each))
                below.extend(cast("dict[str, Any]", each).values())
            elif type(each) is list:
                below.extend(cast("list[Any]", each))
        if not below:
            return keys
        level = below
    return None


def _writes_keys(data: bytes, keys: int, value: Any) -> bool:
    """Whether a text with ``keys`` different keys surely writes no more than these, found without parsing again.

    A quote and a colon end every key. They also stand in texts: an escaped quote before a colon, or a text that begins
    with a colon; a few such texts are in doubt.
    """
    ends = len(_KEY_END.findall(data))
    if ends == keys:
        return True
    ends -= len(_ESCAPED_KEY_END.findall(data))
    return ends == keys and not _has_key_with_backslash(value)


def _has_key_with_backslash(value: Any) -> bool:
    """Whether a key ends in a backslash, so that the quote that ends it looks like an escaped one."""
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return any(map(_ends_in_backslash, found)) or any(map(_has_key_with_backslash, found.values()))
    return isinstance(value, list) and any(map(_has_key_with_backslash, cast("list[Any]", value)))


def _ends_in_backslash(key: str) -> bool:
    return key.endswith("\\")


def _refuse_key_twice(data: bytes, where: str, error: type[RetuneError]) -> None:
    try:
        json.loads(data, object_pairs_hook=_check_keys)
    except _KeyTwice as problem:
        raise error(f"{where}: {problem}") from problem
    except RecursionError as problem:  # in a value that another one of its key replaces
        raise error(f"{where}: {TOO_DEEP}") from problem


def explain(problem: ValidationError) -> str:
    """``field: what is wrong`` of a model's first error."""
    detail = problem.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"


def is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and mappings are nested more than ``limit`` deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [item for each in level for item in _items(each)]
        if not level:
            return False
    return True


def _has_half_pair(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[Any, Any]", value).values())
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else []
