"""The units of a section that passages are made of: sentences, list items, code blocks; and how much fits into one."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from assets_pkg.corpus.segmentation import fence_after, split_sentences
from resources.encoders.token_counter import TokenCounter

MAX_UNIT_CHARS = 800
"""A longer sentence, list item or code block is split at line ends, or at spaces where a line is longer."""

MAX_PASSAGE_CHARS = 1600
"""A passage ends before it exceeds this, about 400 tokens: many encoders truncate at 512."""

SURE_TO_FIT = 0.8
"""Share of the token limit up to which the sum of the sentences' tokens is taken for the passage's."""

_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)]|\(?[a-zA-Z][.)])[ \t]+\S")
_CODE_LINE = re.compile(r"(?: {4}|\t|[ \t]*(?:>>>|\.\.\.)(?:[ ]|$))")
_GAP = re.compile(r"\s(?=\S)")


@dataclass(frozen=True)
class Span:
    """Character offsets into a document's text."""

    start: int
    end: int
    goes_on: bool = False
    """Whether it is a piece of a sentence, an item or code that goes on after it."""


@dataclass(frozen=True)
class TokenLimit:
    """At most ``most`` tokens a passage, counted by ``count``."""

    most: int
    count: TokenCounter


class Characters:
    """How much fits into a passage of `MAX_PASSAGE_CHARS` characters, and into a unit of it."""

    def __init__(self, text: str):
        self._text = text

    def holds(self, units: Sequence[Span]) -> bool:
        return units[-1].end - units[0].start <= MAX_PASSAGE_CHARS

    def cut(self, start: int, end: int) -> int:
        """The offset at which the unit is to be cut; ``end`` where it fits."""
        if end - start <= MAX_UNIT_CHARS:
            return end
        return _last_end(self._text, start + 1, start + MAX_UNIT_CHARS)


class Tokens:
    """The same for a limit of tokens, in a section whose heading begins at ``heading`` and its text at ``body``."""

    def __init__(self, text: str, limit: TokenLimit, heading: int, body: int):
        self._text, self._limit = text, limit
        self._heading, self._body = heading, body
        self._counts: dict[Span, int] = {}

    def holds(self, units: Sequence[Span]) -> bool:
        for unit in units:
            if unit not in self._counts:
                self._counts[unit] = self._count(unit.start, unit.end)
        if sum(self._counts[unit] for unit in units) <= SURE_TO_FIT * self._limit.most:
            return True
        return self._fits(units[0].start, units[-1].end)

    def cut(self, start: int, end: int) -> int:
        if self._fits(start, end):
            return end
        gaps = [match.end() for match in _GAP.finditer(self._text, start + 1, end)]
        fitting = self._how_many_fit(start, gaps)
        if not fitting:  # the first word alone is too long
            return start + max(1, self._how_many_fit(start, range(start + 1, end)))
        line = self._text.rfind("\n", start + 1, gaps[fitting - 1])
        return line + 1 if line >= 0 else gaps[fitting - 1]

    def _how_many_fit(self, start: int, ends: Sequence[int]) -> int:
        return bisect_left(ends, True, key=lambda end: not self._fits(start, end))

    def _fits(self, start: int, end: int) -> bool:
        return self._count(start, end) <= self._limit.most

    def _count(self, start: int, end: int) -> int:
        """Tokens of a slice as a passage; the first of a section has the heading too."""
        begin = start if self._text[self._body : start].strip() else min(start, self._heading)
        return self._limit.count([self._text[begin:end].strip()])[0]


def grouped(
    units: Iterable[Span], sentences: int, overlap: int, limits: Characters | Tokens
) -> list[list[Span]]:
    """The section's sentences by passage, within both limits."""
    groups: list[list[Span]] = []
    for unit in units:
        current = groups[-1] if groups else None
        if current and len(current) < sentences and limits.holds([*current, unit]):
            current.append(unit)
        else:
            repeated = current[-overlap:] if current and overlap else []
            while repeated and not limits.holds([*repeated, unit]):
                repeated = repeated[1:]
            groups.append([*repeated, unit])
    return groups


def units_of(text: str, start: int, end: int, limits: Characters | Tokens, language: str) -> Iterator[Span]:
    """The units between two offsets that have text, each of a size that fits into a passage."""
    for block in _blocks(text, start, end):
        for unit in _units_of_block(text, block, language):
            if text[unit.start : unit.end].strip():
                yield from _limited(text, unit, limits)


def _blocks(text: str, start: int, end: int) -> Iterator[Span]:
    """Paragraphs, separated by blank lines; a fenced code block is one block, with its blank lines."""
    opened, fence = start, ""
    for line in _line_spans(text, start, end):
        raw = text[line.start : line.end]
        before, fence = fence, fence_after(raw, fence)
        if fence and not before and opened < line.start:
            yield Span(opened, line.start)
            opened = line.start
        elif not fence and (before or not raw.strip()):
            yield Span(opened, line.end)
            opened = line.end
    yield Span(opened, end)


def _units_of_block(text: str, block: Span, language: str) -> Iterator[Span]:
    """Sentences of prose, items of a list; code is not split."""
    lines = [
        line for line in _line_spans(text, block.start, block.end) if text[line.start : line.end].strip()
    ]
    if not lines:
        return
    raw = [text[line.start : line.end] for line in lines]
    if fence_after(raw[0], "") or all(_CODE_LINE.match(line) for line in raw):
        yield block
        return
    marks = [line.start for line, content in zip(lines, raw, strict=True) if _LIST_ITEM.match(content)]
    yield from _sentences(text, block.start, marks[0] if marks else block.end, language)
    for start, end in pairwise([*marks, block.end]):
        yield Span(start, end)


def _sentences(text: str, start: int, end: int, language: str) -> Iterator[Span]:
    for sentence in split_sentences(text[start:end], language):
        yield Span(start, start + len(sentence))
        start += len(sentence)


def _limited(text: str, unit: Span, limits: Characters | Tokens) -> Iterator[Span]:
    """The unit, or if it is too long, pieces of it that end at a line's or a word's end."""
    start = unit.start
    while (cut := limits.cut(start, unit.end)) < unit.end:
        if text[start:cut].strip():
            yield Span(start, cut, goes_on=bool(text[cut : unit.end].strip()))
        start = cut
    if text[start : unit.end].strip():
        yield Span(start, unit.end)


def _last_end(text: str, start: int, end: int) -> int:
    """Where the last line, or else the last word, between two offsets ends; ``end`` if none does."""
    line = text.rfind("\n", start, end)
    if line >= 0:
        return line + 1
    gaps = [match.end() for match in _GAP.finditer(text, start, end)]
    return gaps[-1] if gaps else end


def _line_spans(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end:
        found = text.find("\n", start, end)
        stop = end if found < 0 else found + 1
        yield Span(start, stop)
        start = stop
