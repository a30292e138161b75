"""Splits documents into passages of a few sentences of one section; every character is in a passage.

Every passage is a slice of its document's text, so line breaks, lists and code are unchanged. The rule is the
Nemotron recipe's (``sentences_per_chunk`` sentences a chunk, paragraphs split at blank lines); section boundaries,
unsplit code blocks and the length limits are Retune's.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from assets_pkg.config.sections.corpus import PassageSettings
from assets_pkg.corpus.corpus_writer import write_rows
from assets_pkg.corpus.document_source import CorpusError
from assets_pkg.corpus.file_reading import is_plain
from assets_pkg.corpus.places import Places
from assets_pkg.corpus.repetition import Repetition, find_repetition
from assets_pkg.corpus.segmentation import Section, split_sections, split_sentences
from resources.encoders.token_counter import TokenCounter
from resources.language import language_of
from storage.artifacts import Corpus, Document, Passage
from storage.digests import passage_id
from storage.files import write_json
from storage.parquet import RowWriter
from storage.progress import Progress, no_progress

MAX_UNIT_CHARS = 800
"""A longer sentence, list item or code block is split at line ends, or at spaces where a line is longer."""

MAX_PASSAGE_CHARS = 1600
"""A passage ends before it exceeds this, about 400 tokens: many encoders truncate at 512."""

SURE_TO_FIT = 0.8
"""Share of the token limit up to which the sum of the sentences' tokens is taken for the passage's."""

REPEATED_FILE = "repeated_lines.jsonl"
"""Lines that are left out: ``type`` of the documents, how many ``documents`` have it, ``line``."""

EXAMPLES = 8
"""Passages named in the summary of those that a limit ended."""

HISTOGRAM_WORDS = (10, 25, 50, 75, 100, 150, 200, 300)

_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)]|\(?[a-zA-Z][.)])[ \t]+\S")
_CODE_LINE = re.compile(r"(?: {4}|\t|[ \t]*(?:>>>|\.\.\.)(?:[ ]|$))")
_FENCE = re.compile(r" {0,3}(?:```|~~~)")
_GAP = re.compile(r"\s(?=\S)")


@dataclass(frozen=True)
class _Span:
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


Ended = Literal["", "limit", "sentence"]
"""What ended a passage besides its number of sentences: the limit, or the limit within a sentence."""


def split_passages(
    corpus: Corpus,
    settings: PassageSettings,
    folder: Path,
    progress: Progress = no_progress,
    limit: TokenLimit | None = None,
) -> None:
    """Write ``passages.parquet`` (rows of :class:`~storage.artifacts.Passage`) and ``summary.json``.

    The summary has the number of passages that a limit ended before ``sentences_per_chunk`` sentences
    (``ended_by_limit``), of those that it ended within a sentence (``ended_in_sentence``), and examples.

    Args:
        limit: of tokens; without it a passage has at most `MAX_PASSAGE_CHARS` characters.

    Memory: one document, one write batch, and eight bytes for each passage.

    Raises:
        CorpusError: no document has a passage.
    """
    figures = _Figures()
    summary, pages = corpus.summary(), corpus.pages()
    total = summary["documents"]
    taken = _names_taken(summary.get("metadata_fields", ""))
    repetition = find_repetition(corpus) if settings.leave_out_repeated else Repetition()
    with RowWriter(folder / "passages.parquet", Passage) as writer:
        for done, document in enumerate(corpus.documents(), start=1):
            if document.doc_id in repetition.merged:
                continue
            document, starts = repetition.without(document, pages.get(document.doc_id, []))
            places = None if is_plain(document.doc_id) else Places(document, starts, taken)
            for passage, ended in _passages(
                document, settings.sentences_per_chunk, settings.chunk_overlap_sentences, limit, places
            ):
                writer.add(passage)
                figures.add(passage, ended)
            progress(done, total, "documents", passages=figures.passages)
    if not figures.passages:
        raise CorpusError(
            f"none of the {total} documents of {corpus.path} has a passage: they contain no text"
        )
    shown = f"{MAX_PASSAGE_CHARS:,} characters" if limit is None else f"{limit.most:,} tokens"
    written = {"documents": total, **figures.summary(), "limit": shown, **_repeated(repetition)}
    if repetition.lines:
        write_rows(folder / REPEATED_FILE, repetition.rows())
    write_json(folder / "summary.json", written, ensure_ascii=True)


def _repeated(repetition: Repetition) -> dict[str, int]:
    """Figures of what is left out, where something is."""
    figures = {
        "repeated_lines": sum(map(len, repetition.lines.values())),
        "repeated_characters": repetition.characters,
        "documents_merged": len(repetition.merged),
    }
    return {name: figure for name, figure in figures.items() if figure}


def passages_of(
    document: Document, sentences: int, overlap: int = 0, limit: TokenLimit | None = None
) -> Iterator[Passage]:
    """Split one document: at most ``sentences`` sentences (or list items, or code blocks) a passage.

    A passage never crosses a heading. A heading's lines begin the first passage of its section; those of a heading
    without text begin the next section's.

    Args:
        overlap: so many sentences of a passage begin the next one of its section too, as far as the limit allows.
        limit: of tokens; without it of `MAX_PASSAGE_CHARS` characters.
    """
    for passage, _ in _passages(document, sentences, overlap, limit):
        yield passage


def _passages(
    document: Document, sentences: int, overlap: int, limit: TokenLimit | None, places: Places | None = None
) -> Iterator[tuple[Passage, Ended]]:
    words = end = 0
    language = language_of(document.text)
    parts = _split(document.text, sentences, overlap, limit, language)
    for chunk_id, (section, span, count, ended) in enumerate(parts, start=1):
        text = document.text[span.start : span.end].strip()
        length = len(text.split())
        words -= len(document.text[span.start : end].split())  # of the overlap
        end = span.end
        passage = Passage(
            passage_id=passage_id(text),
            doc_id=document.doc_id,
            chunk_id=chunk_id,
            title=document.title,
            section=section.heading,
            text=text,
            start=words,
            end=words + length,
            sentence_count=count,
            word_count=length,
            metadata=places.metadata_at(span.start, section) if places else document.metadata,
        )
        words += length
        yield passage, ended


def _split(
    text: str, sentences: int, overlap: int, limit: TokenLimit | None, language: str
) -> Iterator[tuple[Section, _Span, int, Ended]]:
    bare: Section | None = None  # the first of a run of headings without text
    last: Section | None = None
    for section in split_sections(text):
        start = section.start if bare is None else bare.start
        limits, body = _Characters(text), section.body
        if limit is not None:
            if limit.count([text[start:body].strip()])[0] > limit.most // 2:
                body = start  # a heading as long as the limit is cut as text
            limits = _Tokens(text, limit, start, body)
        units = list(_units(text, body, section.end, limits, language))
        groups = _grouped(units, sentences, overlap, limits)
        if not groups:
            bare = bare or section
            last = section
            continue
        bare = None
        for number, group in enumerate(groups):
            span = _Span(group[0].start if number else start, group[-1].end)
            yield section, span, len(group), _ended(group, sentences, last=number == len(groups) - 1)
    if bare and last and text[bare.start :].strip():
        yield last, _Span(bare.start, len(text)), 0, ""


def _ended(group: list[_Span], sentences: int, *, last: bool) -> Ended:
    if group[-1].goes_on:
        return "sentence"
    return "" if last or len(group) == sentences else "limit"


class _Characters:
    """How much fits into a passage of `MAX_PASSAGE_CHARS` characters, and into a unit of it."""

    def __init__(self, text: str):
        self._text = text

    def holds(self, units: Sequence[_Span]) -> bool:
        return units[-1].end - units[0].start <= MAX_PASSAGE_CHARS

    def cut(self, start: int, end: int) -> int:
        """The offset at which the unit is to be cut; ``end`` where it fits."""
        if end - start <= MAX_UNIT_CHARS:
            return end
        return _last_end(self._text, start + 1, start + MAX_UNIT_CHARS)


class _Tokens:
    """The same for a limit of tokens, in a section whose heading begins at ``heading`` and its text at ``body``."""

    def __init__(self, text: str, limit: TokenLimit, heading: int, body: int):
        self._text, self._limit = text, limit
        self._heading, self._body = heading, body
        self._counts: dict[_Span, int] = {}

    def holds(self, units: Sequence[_Span]) -> bool:
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


def _grouped(
    units: Iterable[_Span], sentences: int, overlap: int, limits: _Characters | _Tokens
) -> list[list[_Span]]:
    """The section's sentences by passage, within both limits."""
    groups: list[list[_Span]] = []
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


def _units(text: str, start: int, end: int, limits: _Characters | _Tokens, language: str) -> Iterator[_Span]:
    for block in _blocks(text, start, end):
        for unit in _units_of_block(text, block, language):
            if text[unit.start : unit.end].strip():
                yield from _limited(text, unit, limits)


def _blocks(text: str, start: int, end: int) -> Iterator[_Span]:
    """Paragraphs, separated by blank lines; a fenced code block is one block, with its blank lines."""
    opened, fenced = start, False
    for line in _line_spans(text, start, end):
        raw = text[line.start : line.end]
        if _FENCE.match(raw):
            if not fenced and opened < line.start:
                yield _Span(opened, line.start)
                opened = line.start
            fenced = not fenced
            if not fenced:
                yield _Span(opened, line.end)
                opened = line.end
        elif not fenced and not raw.strip():
            yield _Span(opened, line.end)
            opened = line.end
    yield _Span(opened, end)


def _units_of_block(text: str, block: _Span, language: str) -> Iterator[_Span]:
    """Sentences of prose, items of a list; code is not split."""
    lines = [
        line for line in _line_spans(text, block.start, block.end) if text[line.start : line.end].strip()
    ]
    if not lines:
        return
    raw = [text[line.start : line.end] for line in lines]
    if _FENCE.match(raw[0]) or all(_CODE_LINE.match(line) for line in raw):
        yield block
        return
    marks = [line.start for line, content in zip(lines, raw, strict=True) if _LIST_ITEM.match(content)]
    yield from _sentences(text, block.start, marks[0] if marks else block.end, language)
    for start, end in pairwise([*marks, block.end]):
        yield _Span(start, end)


def _sentences(text: str, start: int, end: int, language: str) -> Iterator[_Span]:
    for sentence in split_sentences(text[start:end], language):
        yield _Span(start, start + len(sentence))
        start += len(sentence)


def _limited(text: str, unit: _Span, limits: _Characters | _Tokens) -> Iterator[_Span]:
    """The unit, or if it is too long, pieces of it that end at a line's or a word's end."""
    start = unit.start
    while (cut := limits.cut(start, unit.end)) < unit.end:
        if text[start:cut].strip():
            yield _Span(start, cut, goes_on=bool(text[cut : unit.end].strip()))
        start = cut
    if text[start : unit.end].strip():
        yield _Span(start, unit.end)


def _last_end(text: str, start: int, end: int) -> int:
    """Where the last line, or else the last word, between two offsets ends; ``end`` if none does."""
    line = text.rfind("\n", start, end)
    if line >= 0:
        return line + 1
    gaps = [match.end() for match in _GAP.finditer(text, start, end)]
    return gaps[-1] if gaps else end


def _line_spans(text: str, start: int, end: int) -> Iterator[_Span]:
    while start < end:
        found = text.find("\n", start, end)
        stop = end if found < 0 else found + 1
        yield _Span(start, stop)
        start = stop


def _names_taken(shown: str) -> dict[str, str]:
    """The user's own fields with their types, as the summary of the corpus has them."""
    pairs = (field.partition(": ") for field in shown.split(", ") if field)
    return {name: kind for name, _, kind in pairs}


class _Figures:
    """Counts that the summary reports."""

    def __init__(self) -> None:
        self.passages = 0
        self.words = 0
        self.characters = 0
        self.ids = array("Q")  # 64 bits each, as a number
        self.histogram: Counter[int] = Counter()
        self.ended: Counter[Ended] = Counter()
        self.examples: list[dict[str, Any]] = []

    def add(self, passage: Passage, ended: Ended) -> None:
        self.ended[ended] += 1
        if ended and len(self.examples) < EXAMPLES:
            place = {"document": passage.doc_id, "passage": passage.chunk_id, "section": passage.section}
            self.examples.append({**place, "ends": passage.text[-80:]})
        self.passages += 1
        self.words += passage.word_count
        self.characters += len(passage.text)
        self.ids.append(int(passage.passage_id.removeprefix("d_"), 16))
        self.histogram[sum(passage.word_count >= edge for edge in HISTOGRAM_WORDS)] += 1

    def summary(self) -> dict[str, Any]:
        import numpy as np

        edges = (0, *HISTOGRAM_WORDS)
        return {
            "passages": self.passages,
            "distinct_texts": len(np.unique(np.frombuffer(self.ids, np.uint64))),
            "words": self.words,
            "characters": self.characters,
            "ended_by_limit": self.ended["limit"] + self.ended["sentence"],
            "ended_in_sentence": self.ended["sentence"],
            "ended_examples": self.examples,
            "words_per_passage": round(self.words / self.passages, 1),
            "length_histogram": [
                {"words_from": edge, "passages": self.histogram[number]} for number, edge in enumerate(edges)
            ],
        }
