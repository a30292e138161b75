"""Texts of users, made fit to be shown: nothing in them acts on the terminal or the page."""

from __future__ import annotations

import json
import re
from typing import Any

_ACTING = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but tab and line break
    r"\u2028\u2029\u202a-\u202e\u2066-\u2069"  # other line breaks, and what reverses the direction of text
    r"\ud800-\udfff]"  # parts of file names that are not UTF-8: no terminal can be sent these
)


def visible(text: str) -> str:
    r"""``text`` with control characters as their escapes in Python (``\x1b``); line breaks and tabs stay."""
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def visible_json(value: Any) -> str:
    """``value`` as JSON on one line, in which what would act on a terminal is an escape: it reads back the same."""
    return _ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
