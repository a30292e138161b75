"""The condition of a filtered search, checked before an engine sees it: engines stop reading at a semicolon or at the
end of what they understand, and a filter of which only a part counts finds what it was to keep out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from resources.vector_store.base import VectorStoreError

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_STRING = r"'(?:[^']|'')*'"
_STRING_WITH_ESCAPES = r"'(?:[^'\\]|\\.|'')*'"
_OTHER = r"""|"(?:[^"\\]|\\.)*"|`[^`]*`|--|/\*|\w+|\S"""
_TOKEN = re.compile(_STRING + _OTHER, re.DOTALL)
_TOKEN_WITH_ESCAPES = re.compile(_STRING_WITH_ESCAPES + _OTHER, re.DOTALL)
_WHY = {
    ";": "a filter is one condition, and nothing may follow it",
    "--": "a filter has no comments; write a blank between two signs",
    "/*": "a filter has no comments",
    "'": "this quote is never closed",
    '"': "this quote is never closed",
    "`": "this quote is never closed",
}


def whole(where: str, *, backslash_escapes: bool = False) -> str:
    """The condition in brackets, so that the engine has to read all of it.

    Args:
        backslash_escapes: a quote in a text may stand behind a backslash, as in Milvus's own syntax.

    Raises:
        VectorStoreError: it is empty, has a second statement or a comment, or its quotes or brackets do not match;
            the message names the place.
    """
    awaited: list[str] = []
    last = None
    for last in tokens(where, backslash_escapes=backslash_escapes):
        token = last[0]
        if token in _WHY:
            raise refused(where, last.start(), _WHY[token])
        if token in _CLOSING:
            awaited.append(_CLOSING[token])
        elif token in _CLOSING.values() and (not awaited or awaited.pop() != token):
            raise refused(where, last.start(), "this bracket was not opened")
    if last is None:
        raise VectorStoreError(f"filter {where!r}: it is empty; leave it out to search everything")
    if awaited:
        raise refused(where, len(where), f"{awaited[-1]} is missing")
    return f"({where})"


def tokens(where: str, *, backslash_escapes: bool = False) -> Iterator[re.Match[str]]:
    """The words, quoted texts and signs of a condition, with their places."""
    return (_TOKEN_WITH_ESCAPES if backslash_escapes else _TOKEN).finditer(where)


def refused(where: str, position: int, why: str) -> VectorStoreError:
    """The error of a condition that is wrong at ``position``, counted from 0; the message counts from 1."""
    found = where[position:].split(maxsplit=1)
    at = f"column {position + 1}, at {found[0][:40]!r}" if found else "its end"
    return VectorStoreError(f"filter {where!r}, {at}: {why}")
