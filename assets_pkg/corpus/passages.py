"""Splits documents into passages of a few sentences of one section; every character is in a passage.

Every passage is a slice of its document's text, so line breaks, lists and code are unchanged. The rule is the
Nemotron recipe's (``sentences_per_chunk`` sentences a chunk, paragraphs split at blank lines); section boundaries,
unsplit code blocks and the length limits are Retune's.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.corpus import PassageSettings
from assets_pkg.corpus.document_source import CorpusError
from assets_pkg.corpus.segmentation import Section, split_sections, split_sentences
from storage.artifacts import Corpus, Document, Passage
from storage.digests import passage_id
from storage.files import write_json
from storage.parquet import RowWriter
from storage.progress import Progress, no_progress

MAX_UNIT_CHARS = 800
"""A longer sentence, list item or code block is split at line ends, or at spaces where a line is longer."""

MAX_PASSAGE_CHARS = 1600
"""A passage ends before it exceeds this, about 400 tokens: many encoders truncate at 512."""

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


def split_passages(
    corpus: Corpus, settings: PassageSettings, folder: Path, progress: Progress = no_progress
) -> None:
    """Write ``passages.parquet`` (rows of :class:`~storage.artifacts.Passage`) and ``summary.json``.

    Memory: one document, one write batch, and eight bytes for each passage.

    Raises:
        CorpusError: no document has a passage.
    """
    figures = _Figures()
    total = corpus.summary()["documents"]
    with RowWriter(folder / "passages.parquet", Passage) as writer:
        for done, document in enumerate(corpus.documents(), start=1):
            for passage in passages_of(document, settings.sentences_per_chunk):
                writer.add(passage)
                figures.add(passage)
            progress(done, total, "documents", passages=figures.passages)
    if not figures.passages:
        raise CorpusError(
            f"none of the {total} documents of {corpus.path} has a passage: they contain no text"
        )
    summary = {"documents": total, **figures.summary()}
    write_json(folder / "summary.json", summary, ensure_ascii=True)


def passages_of(document: Document, sentences: int) -> Iterator[Passage]:
    """Split one document: at most ``sentences`` sentences (or list items, or code blocks) a passage.

    A passage never crosses a heading. A heading's lines begin the first passage of its section; those of a heading
    without text begin the next section's.
    """
    words = 0
    for chunk_id, (section, span, count) in enumerate(_split(document.text, sentences), start=1):
        text = document.text[span.start : span.end].strip()
        length = len(text.split())
        yield Passage(
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
            metadata=document.metadata,
        )
        words += length


def _split(text: str, sentences: int) -> Iterator[tuple[Section, _Span, int]]:
    bare: Section | None = None  # the first of a run of headings without text
    last: Section | None = None
    for section in split_sections(text):
        start = section.start if bare is None else bare.start
        groups = _grouped(text, section, sentences)
        if not groups:
            bare = bare or section
            last = section
            continue
        bare = None
        for number, group in enumerate(groups):
            yield section, _Span(group[0].start if number else start, group[-1].end), len(group)
    if bare and last and text[bare.start :].strip():
        yield last, _Span(bare.start, len(text)), 0


def _grouped(text: str, section: Section, sentences: int) -> list[list[_Span]]:
    """The section's sentences by passage, within both limits."""
    groups: list[list[_Span]] = []
    for unit in _units(text, section.body, section.end):
        current = groups[-1] if groups else None
        if current and len(current) < sentences and unit.end - current[0].start <= MAX_PASSAGE_CHARS:
            current.append(unit)
        else:
            groups.append([unit])
    return groups


def _units(text: str, start: int, end: int) -> Iterator[_Span]:
    for block in _blocks(text, start, end):
        for unit in _units_of_block(text, block):
            if text[unit.start : unit.end].strip():
                yield from _limited(text, unit)


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


def _units_of_block(text: str, block: _Span) -> Iterator[_Span]:
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
    yield from _sentences(text, block.start, marks[0] if marks else block.end)
    for start, end in pairwise([*marks, block.end]):
        yield _Span(start, end)


def _sentences(text: str, start: int, end: int) -> Iterator[_Span]:
    for sentence in split_sentences(text[start:end]):
        yield _Span(start, start + len(sentence))
        start += len(sentence)


def _limited(text: str, unit: _Span) -> Iterator[_Span]:
    """The unit, or if it is too long, pieces of it that end at a line's or a word's end."""
    start = unit.start
    while unit.end - start > MAX_UNIT_CHARS:
        cut = _last_end(text, start + 1, start + MAX_UNIT_CHARS)
        if text[start:cut].strip():
            yield _Span(start, cut)
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


class _Figures:
    """Counts that the summary reports."""

    def __init__(self) -> None:
        self.passages = 0
        self.words = 0
        self.characters = 0
        self.ids = array("Q")  # 64 bits each, as a number
        self.histogram: Counter[int] = Counter()

    def add(self, passage: Passage) -> None:
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
            "words_per_passage": round(self.words / self.passages, 1),
            "length_histogram": [
                {"words_from": edge, "passages": self.histogram[number]} for number, edge in enumerate(edges)
            ],
        }
