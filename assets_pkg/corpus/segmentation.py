"""Splits a text into sections (at headings, question lines, a plain title) and into sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from assets_pkg.corpus.sentence_rules import joined, split_thai
from resources.language import ENGLISH

MAX_TITLE_WORDS = 40
"""A first line with more words is text, not a title."""

QUESTION_LEVEL = 7
"""Below every heading."""

MAX_HEADING_CHARS = 300
"""A longer line is never a heading."""

_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(?P<heading>\S.*?)(?:[ \t]+#+)?[ \t]*")
_QUESTION = re.compile(
    r" {0,3}(?:\*\*)?(?:Q|Question)[ \t]*\d*[ \t]*[:.)][ \t]*(?P<heading>\S.*\?)(?:\*\*)?[ \t]*"
)
_BOLD_QUESTION = re.compile(r" {0,3}(\*\*|__)(?P<heading>\S[^*]*\?)\1[ \t]*")
_ADORNMENT = re.compile(r"(?P<mark>[=\-~^\"'`#*+.:_])(?P=mark){2,}[ \t]*")
FENCES = ("```", "~~~")
_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<info>.*)")
_NOT_A_TITLE = re.compile(r"[ \t]|[-*+>|]|\d+[.)]|\W*$|[!<\[{`~]")


@dataclass(frozen=True)
class Section:
    """A heading and the text under it, as character offsets: ``text[start:body]`` are the heading's own
    lines, ``text[body:end]`` is what follows. ``heading`` is empty for the text before the first heading."""

    heading: str
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class _Line:
    text: str
    start: int
    end: int

    @property
    def blank(self) -> bool:
        return not self.text.strip()


def split_sections(text: str, *, plain_title: bool = True) -> list[Section]:
    """Split ``text`` at its headings; the sections cover it without gaps, in order.

    Headings are ATX (``## X``) and underlined ones (Markdown's setext and all adornments of
    reStructuredText, with or without overline), and question lines of a FAQ (``Q: X?``, ``**X?**``). With
    ``plain_title`` a short first line followed by a blank line counts too. Fenced code has no headings.
    """
    starts = list(_headings(_lines(text), plain_title))
    if not starts or text[: starts[0].start].strip():
        starts.insert(0, Section("", 0, 0, 0))
    ends = [following.start for following in starts[1:]] + [len(text)]
    return [
        Section(found.heading, found.start, found.body, end) for found, end in zip(starts, ends, strict=True)
    ]


def heading_paths(text: str, sections: list[Section]) -> list[list[str]]:
    """For each section its heading, after those that it stands under; empty for text before the first heading.

    ATX headings have their own level; underlined ones that of their mark, in the order in which the marks first occur;
    question lines stand under all others.
    """
    marks: list[str] = []
    stack: list[tuple[int, str]] = []
    paths: list[list[str]] = []
    for section in sections:
        if section.heading:
            level = _level(text[section.start : section.body], marks)
            stack = [*(above for above in stack if above[0] < level), (level, section.heading)]
        paths.append([heading for _, heading in stack])
    return paths


def _level(lines: str, marks: list[str]) -> int:
    first, last = lines.split("\n")[0], lines.rstrip().rpartition("\n")[2]
    if _ATX.fullmatch(first):
        return len(first.lstrip()) - len(first.lstrip().lstrip("#"))
    if mark := _mark(last):
        if mark not in marks:
            marks.append(mark)
        return marks.index(mark) + 1
    return QUESTION_LEVEL if first.rstrip("* _").endswith("?") else 1


def title_of(text: str, stem: str) -> str:
    """The document's title: its first heading where the text starts with one or with a short line that a
    blank line follows, else the first heading further down, else ``stem`` (the file's name)."""
    return next((found.heading for found in _headings(_lines(text), plain_title=True) if found.heading), stem)


def _lines(text: str) -> list[_Line]:
    lines: list[_Line] = []
    position = 0
    for raw in text.split("\n"):
        lines.append(_Line(raw.rstrip("\r"), position, min(position + len(raw) + 1, len(text))))
        position += len(raw) + 1
    return lines


def _headings(lines: list[_Line], plain_title: bool) -> Iterator[Section]:
    """Headings in order; their ``end`` is filled in by the caller."""
    index, fence = 0, ""
    at_top = plain_title
    while index < len(lines):
        before, fence = fence, fence_after(lines[index].text, fence)
        found = None if before or fence else _heading_at(lines, index, at_top)
        if found:
            heading, count = found
            yield Section(heading, lines[index].start, lines[index + count - 1].end, 0)
            index += count
            at_top = False
            continue
        at_top = at_top and lines[index].blank
        index += 1


def _heading_at(lines: list[_Line], index: int, at_top: bool) -> tuple[str, int] | None:
    """The heading that begins at line ``index`` and its number of lines, or None."""
    line = lines[index]
    if line.blank or len(line.text) > MAX_HEADING_CHARS:
        return None
    for pattern in (_ATX, _QUESTION, _BOLD_QUESTION):
        if match := pattern.fullmatch(line.text):
            return match["heading"].strip(), 1
    if found := _underlined(lines, index):
        return found
    if at_top and _is_plain_title(lines, index):
        return line.text.strip(), 1
    return None


def _underlined(lines: list[_Line], index: int) -> tuple[str, int] | None:
    over = _mark(lines[index].text)
    title_at = index + 1 if over else index
    if title_at + 1 >= len(lines) or (index > 0 and not lines[index - 1].blank):
        return None
    title, under = lines[title_at], lines[title_at + 1]
    mark = _mark(under.text)
    if title.blank or not mark or (over and over != mark) or _mark(title.text):
        return None
    if not over and (title.text[0].isspace() or not _spans(under.text, title.text, mark)):
        return None
    return title.text.strip(), title_at + 2 - index


def _spans(under: str, title: str, mark: str) -> bool:
    """Whether the underline is as long as the title; Markdown's two marks may be shorter."""
    return mark in "=-" or len(under.rstrip()) >= len(title.rstrip())


def _mark(text: str) -> str:
    """What the line is drawn with; three of a fence's signs begin or end a block of code."""
    match = _ADORNMENT.fullmatch(text)
    return match["mark"] if match and text.rstrip() not in FENCES else ""


def _is_plain_title(lines: list[_Line], index: int) -> bool:
    text = lines[index].text
    if _NOT_A_TITLE.match(text) or len(text.split()) > MAX_TITLE_WORDS:
        return False
    if any(sentence[0].isupper() for sentence in split_sentences(text)[1:]):
        return False
    below = lines[index + 1 :]
    return bool(below) and below[0].blank and any(not line.blank for line in below)


def fence_after(line: str, fence: str) -> str:
    """The fence of a code block that is open after ``line``, empty if none is; ``fence`` was open before it.

    A block ends with at least as many of the signs that it began with, and nothing behind them
    (https://spec.commonmark.org/0.31.2/#fenced-code-blocks).
    """
    match = _FENCE.match(line)
    if not match:
        return fence
    mark, info = match["mark"], match["info"].strip()
    if not fence:
        return "" if mark[0] == "`" and "`" in info else mark
    return "" if mark.startswith(fence) and not info else fence


def split_sentences(text: str, language: str = ENGLISH) -> list[str]:
    """The sentences of ``text``, each with the white space that follows it: joined they are ``text`` again.

    A full stop inside a word (``zipfile.ZipFile``) ends no sentence, unlike in sentencex; scripts that are written
    without spaces have full stops of their own, and Thai has none.

    Args:
        language: its ISO 639-1 code (:func:`~resources.language.language_of`).
    """
    import sentencex

    sentences: list[str] = []
    for piece in sentencex.segment(language, text):  # pyright: ignore[reportAttributeAccessIssue]
        last = sentences[-1][-1] if sentences else " "
        if last.isascii() and not last.isspace():
            sentences[-1] += piece
        else:
            sentences.append(piece)
    if language == "th":
        return [part for sentence in sentences for part in split_thai(sentence)]
    return joined(sentences, language)
