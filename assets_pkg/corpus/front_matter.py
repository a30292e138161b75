"""YAML front matter: the fields that a Markdown file begins with, between two lines of three dashes."""

from __future__ import annotations

import re
from typing import Any, cast

import yaml

_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def split_front_matter(text: str) -> tuple[dict[Any, Any], str]:
    """The fields, and the text after them. A text that begins with a line of dashes and no mapping has none."""
    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        fields: Any = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError):  # a date such as 2024-02-31 is a ValueError
        return {}, text
    if not isinstance(fields, dict):
        return {}, text
    return cast("dict[Any, Any]", fields), text[match.end() :]
