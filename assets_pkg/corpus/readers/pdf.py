"""PDF: the text layer in reading order, with headings, without running headers and footers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ctypes import byref, c_ushort
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from assets_pkg.corpus.readers.file_document import (
    FileDocument,
    FileItem,
    ReadError,
    ReadOptions,
    joined_pages,
)

MARGIN = 0.12
"""Share of a page's height at its top and its foot in which running headers and footers stand."""

REPEATED = 0.3
"""Share of the pages on which such a line comes again."""

LARGER = 1.15
"""A heading's height, in that of the text."""

MAX_HEADING_CHARS = 200
MAX_LEVELS = 4
PARAGRAPH_GAP = 0.6
"""White space between two paragraphs, in heights of a line."""

_LINE = re.compile(r"[^\r\n]+")
_DIGITS = re.compile(r"\d+")
_HYPHENS = ("-", "\x02", "\u00ad", "\ufffe")
_ITEM = re.compile(r"(?:[•◦▪–*-]|\d{1,3}[.)]|[a-z][.)])\s")
_LEADERS = re.compile(r"(?: ?\.){5,} ?")
"""The dots of a table of contents between a title and its page."""

_ENDS_SENTENCE = re.compile(r"[.!?:;。！？…][\"'”’)\]]*$")
_MARKS = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe]")


@dataclass(frozen=True)
class _TextLine:
    """A line of a page; ``top`` and ``bottom`` as shares of the page's height from its top."""

    text: str
    height: float
    top: float
    bottom: float


@dataclass(frozen=True)
class _Paragraph:
    text: str
    height: float


def read_pdf(path: Path, options: ReadOptions) -> Iterator[FileItem]:
    """The document with the page at which each of its parts stands.

    Headings are the lines that the outline names, and those in larger letters than the text's.

    Raises:
        ReadError: it is encrypted or damaged, or no page has a text layer.
    """
    import pypdfium2 as pdfium

    try:
        document: Any = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise ReadError("encrypted", "it has a password: save it without one") from error
        raise ReadError("damaged", f"not readable as PDF ({error})") from error
    with document:
        title = document.get_metadata_value("Title").strip()
        outline = _outline(document)
        pages, damaged = _lines_of_pages(document)
    yield _document(pages, outline, title, damaged)


def _document(
    pages: list[list[_TextLine]], outline: dict[str, int], title: str, damaged: Sequence[int]
) -> FileDocument:
    empty = [number for number, lines in enumerate(pages, start=1) if not lines and number not in damaged]
    if pages and len(damaged) == len(pages):
        raise ReadError("damaged", f"none of its {len(pages)} pages can be read")
    if not any(pages):
        raise ReadError("scanned", f"none of its {len(pages)} pages has a text layer: run OCR on it first")
    kept = _without_running_lines(pages)
    paragraphs = [list(_paragraphs(lines)) for lines in kept]
    levels = _levels(paragraphs)
    text, starts = joined_pages(
        "\n\n".join(_rendered(paragraph, outline, levels) for paragraph in page) for page in paragraphs
    )
    text, starts = _joined_sentences(text, starts)
    warnings = [f"{_pages(empty)} no text layer (scanned, or a picture): run OCR on it"] if empty else []
    warnings += [f"{_pages(damaged)} damage, and cannot be read"] if damaged else []
    headings = (p.text for page in paragraphs[:1] for p in page if _level(p, outline, levels))
    return FileDocument(text, next(headings, title), warnings=warnings, pages=starts)


def _pages(numbers: Sequence[int]) -> str:
    ranges = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in run] for _, run in ranges]
    shown = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:20])
    more = f" and {len(runs) - 20} more" if len(runs) > 20 else ""
    return f"page {shown} has" if len(numbers) == 1 else f"pages {shown}{more} have"


# ---- what the file holds --------------------------------------------------------------------------------------


def _outline(document: Any) -> dict[str, int]:
    """Titles of the outline with their levels, from 1."""
    found: dict[str, int] = {}
    try:
        for bookmark in document.get_toc(max_depth=MAX_LEVELS):
            found.setdefault(_key(bookmark.get_title()), bookmark.level + 1)
    except (ValueError, RuntimeError):  # a damaged outline decides nothing
        return found
    return found


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _lines_of_pages(document: Any) -> tuple[list[list[_TextLine]], list[int]]:
    """The lines of each page, and the numbers of those that cannot be read."""
    from pypdfium2 import PdfiumError

    pages: list[list[_TextLine]] = []
    damaged: list[int] = []
    for number in range(len(document)):
        try:
            page = document[number]
            text_page = page.get_textpage()
            pages.append(list(_lines(text_page.raw, text_page.count_chars(), *page.get_size())))
            text_page.close()
            page.close()
        except PdfiumError:
            pages.append([])
            damaged.append(number + 1)
    return pages, damaged


def _lines(text_page: Any, count: int, width: float, height: float) -> Iterator[_TextLine]:
    from pypdfium2 import raw

    for line in _LINE.finditer(_characters(text_page, count)):
        if text := _as_text(line[0]):
            first = line.end() - len(line[0].lstrip(" \t\xa0"))
            box = raw.FS_RECTF()
            raw.FPDFText_GetLooseCharBox(text_page, first, byref(box))
            top, bottom = (1 - box.top / height, 1 - box.bottom / height) if height else (0.0, 0.0)
            yield _TextLine(text, round(abs(box.top - box.bottom), 1), top, bottom)


def _characters(text_page: Any, count: int) -> str:
    """The page's characters at their indices: by one call, or by one for each where that gives others."""
    from pypdfium2 import raw

    buffer = (c_ushort * (count + 1))()
    if raw.FPDFText_GetText(text_page, 0, count, buffer) == count + 1:
        text = bytes(buffer)[:-2].decode("utf-16-le", "surrogatepass").replace(_HYPHENS[3], _HYPHENS[1])
        if len(text) == count and _has_characters_at_indices(text, text_page):
            return text
    codes = (raw.FPDFText_GetUnicode(text_page, index) for index in range(count))
    return "".join(chr(code) if code < 0x110000 else "\0" for code in codes)


def _has_characters_at_indices(text: str, text_page: Any) -> bool:
    """Whether a page's text is that of PDFium's list of characters: it lacks control characters, and has only a part of
    what a damaged font gives for one. Compared are a character of each kind, and the place of each line."""
    from pypdfium2 import raw

    kinds = dict(zip(text, range(len(text)), strict=True))
    starts = (line.start() for line in _LINE.finditer(text))
    return all(
        raw.FPDFText_GetUnicode(text_page, index) == ord(kind) for kind, index in kinds.items()
    ) and all(raw.FPDFText_GetCharIndexFromTextIndex(text_page, index) == index for index in starts)


def _as_text(units: str) -> str:
    text = units.replace("\0", "")
    if not text.isascii():  # joins surrogate pairs
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    hyphened = text.rstrip().endswith(_HYPHENS[1:])
    if not text.isprintable():
        text = _MARKS.sub("", text)
    if ".." in text or ". ." in text:
        text = _LEADERS.sub(" ", text)
    return text.strip() + ("\u00ad" if hyphened else "")


# ---- what is text -----------------------------------------------------------------------------------------------


def _without_running_lines(pages: list[list[_TextLine]]) -> list[list[_TextLine]]:
    """The pages without the lines in their margins that come again on others, numbers aside."""
    with_text = sum(1 for lines in pages if lines)
    found = Counter(key for lines in pages for key in {_running_key(line) for line in lines} if key)
    least = max(2, min(3, with_text), int(REPEATED * with_text))
    repeated = {key for key, count in found.items() if count >= least}
    return [[line for line in lines if _running_key(line) not in repeated] for lines in pages]


def _running_key(line: _TextLine) -> str:
    if not (line.bottom < MARGIN or line.top > 1 - MARGIN):
        return ""
    return ("top " if line.bottom < MARGIN else "foot ") + _DIGITS.sub("#", _key(line.text))


def _paragraphs(lines: Iterable[_TextLine]) -> Iterator[_Paragraph]:
    collected: list[_TextLine] = []
    for line in lines:
        if collected and not _goes_on(collected[-1], line):
            yield _joined(collected)
            collected = []
        collected.append(line)
    if collected:
        yield _joined(collected)


def _goes_on(above: _TextLine, line: _TextLine) -> bool:
    """Whether a line continues the paragraph of the one above it."""
    if abs(line.height - above.height) > 0.1 * above.height or _ITEM.match(line.text):
        return False
    if line.top < above.top - 0.01:  # another column
        return not _ENDS_SENTENCE.search(above.text)
    return line.top - above.bottom <= PARAGRAPH_GAP * (above.bottom - above.top)


def _joined(lines: list[_TextLine]) -> _Paragraph:
    text = lines[0].text
    for _, line in pairwise(lines):
        if text.endswith(_HYPHENS) and line.text[:1].islower():
            text = text[:-1] + line.text
        else:
            text = f"{text.rstrip(chr(0xAD))} {line.text}"
    heights: defaultdict[float, int] = defaultdict(int)
    for line in lines:
        heights[line.height] += len(line.text)
    return _Paragraph(text.rstrip("\u00ad"), max(heights, key=lambda height: heights[height]))


def _levels(pages: Iterable[Iterable[_Paragraph]]) -> dict[float, int]:
    """Heights of letters that are headings', with their levels."""
    letters: defaultdict[float, int] = defaultdict(int)
    for page in pages:
        for paragraph in page:
            letters[paragraph.height] += len(paragraph.text)
    body = max(letters, key=lambda height: letters[height], default=0.0)
    larger = sorted((height for height in letters if height >= LARGER * body), reverse=True)
    return {height: min(level, MAX_LEVELS) for level, height in enumerate(larger, start=1)}


def _level(paragraph: _Paragraph, outline: dict[str, int], levels: dict[float, int]) -> int:
    """The level of a heading; 0 for text."""
    if len(paragraph.text) > MAX_HEADING_CHARS:
        return 0
    return outline.get(_key(paragraph.text), 0) or levels.get(paragraph.height, 0)


def _rendered(paragraph: _Paragraph, outline: dict[str, int], levels: dict[float, int]) -> str:
    level = _level(paragraph, outline, levels)
    if level:
        return f"{'#' * level} {paragraph.text}"
    return f"\\{paragraph.text}" if paragraph.text.startswith("#") else paragraph.text


def _joined_sentences(text: str, starts: list[int]) -> tuple[str, list[int]]:
    """The text with sentences that a page's end cuts in two made one again; every offset stays right."""
    parts: list[str] = []
    for start, end in pairwise([*starts, len(text)]):
        page = text[start:end]
        before = parts[-1].rstrip("\n") if parts else ""
        last = before.rpartition("\n")[2]
        cut = page[:1].islower() and last and not last.startswith("#") and not _ENDS_SENTENCE.search(last)
        if cut:
            # As long as before: what is embedded has no blank lines inside a sentence.
            parts[-1] = before + " " * (len(parts[-1]) - len(before))
        parts.append(page)
    return "".join(parts), starts
