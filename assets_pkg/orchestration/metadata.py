"""Metadata for the UI: numbers that it plots, small tables, samples, pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from storage.printable import visible

DIGITS = 6
CELL_CHARS = 120
UNBROKEN_CHARS = 40  # long enough for a version, which is to be copied whole
BREAK_HERE = "\u200b"  # a zero-width space

_MARKUP = re.compile(r"[\\`*\[\]<>&~|$]|(?<![^\W_])_|_(?![^\W_])")
"""What begins or ends something in a line of Markdown (GitHub's, as the UI reads it). An underscore between two letters
does not."""

_ADDRESS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=[-\w]+\.[-\w])", re.IGNORECASE)


def numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The plain numbers and short texts among ``figures``, as metadata that the UI can plot or show.

    Floats are rounded to six digits, for display; the artifact has them in full.
    """
    shown: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, bool):
            shown[name] = dg.MetadataValue.bool(value)
        elif isinstance(value, int):
            shown[name] = dg.MetadataValue.int(value)
        elif isinstance(value, float):
            shown[name] = dg.MetadataValue.float(float(f"{value:.{DIGITS}g}"))
        elif isinstance(value, str):
            shown[name] = dg.MetadataValue.text(value)
    return shown


def in_words(figures: Mapping[str, Any]) -> str:
    """Figures in a line, for what is said of a failed check: ``near questions: 3, tolerated share: 0.1``."""
    shown = {name: value for name, value in figures.items() if isinstance(value, str | int | float)}
    return ", ".join(
        f"{name.replace('_', ' ')}: {f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in shown.items()
    )


def picture(path: Path) -> dg.MarkdownMetadataValue:
    """A PNG inside Markdown (the UI drops raw ``<img>`` tags but shows data URIs)."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return dg.MetadataValue.md(f"![{as_plain_markdown(path.stem)}](data:image/png;base64,{data})")


def table(rows: Iterable[Mapping[str, Any]], longest: int = CELL_CHARS) -> dg.MarkdownMetadataValue:
    """A Markdown table of ``rows``, which share their keys; cells of more than ``longest`` characters are cut. What
    cells hold is shown as it is: no Markdown, HTML, link or image in them takes effect."""
    listed = list(rows)
    if not listed:
        return dg.MetadataValue.md("(none)")
    lines = ["| " + " | ".join(map(as_plain_markdown, listed[0])) + " |", "|" + " --- |" * len(listed[0])]
    lines += ["| " + " | ".join(_cell(value, longest) for value in row.values()) + " |" for row in listed]
    return dg.MetadataValue.md("\n".join(lines))


def as_plain_markdown(text: str) -> str:
    """Markdown that shows one line of text as it is, also inside a table.

    The UI makes links of addresses in the text that is left when Markdown has been read, where a backslash no longer
    helps: these are broken by a character of no width.
    """
    shown = _ADDRESS.sub(BREAK_HERE, visible(" ".join(text.split())))
    return _MARKUP.sub(r"\\\g<0>", shown)


def _cell(value: Any, longest: int) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    # A signature or an address without a blank would widen its column beyond the page.
    text = re.sub(rf"(\S{{{UNBROKEN_CHARS}}})(?=\S)", rf"\1{BREAK_HERE}", text)
    return as_plain_markdown(text)
