"""Splits documents into passages of a few sentences of one section; every character is in a passage.

Every passage is a slice of its document's text, so line breaks, lists and code are unchanged. The rule is the
Nemotron recipe's (``sentences_per_chunk`` sentences a chunk, paragraphs split at blank lines); section boundaries,
unsplit code blocks and the length limits are Retune's.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from assets_pkg.config.sections.corpus import PassageSettings
from assets_pkg.corpus.document_source import CorpusError
from assets_pkg.corpus.file_reading import is_plain
from assets_pkg.corpus.passage_units import (
    MAX_PASSAGE_CHARS,
    Characters,
    Span,
    TokenLimit,
    Tokens,
    grouped,
    units_of,
)
from assets_pkg.corpus.places import Places
from assets_pkg.corpus.repetition import Repetition, find_repetition
from assets_pkg.corpus.segmentation import Section, split_sections
from resources.language import language_of
from storage.artifacts import Corpus, Document, Passage
from storage.digests import passage_id
from storage.files import write_json, write_json_lines
from storage.parquet import RowWriter
from storage.progress import Progress, no_progress

REPEATED_FILE = "repeated_lines.jsonl"
"""Lines that are left out: ``type`` of the documents, how many ``documents`` have it, ``line``."""

EXAMPLES = 8
"""Passages named in the summary of those that a limit ended."""

HISTOGRAM_WORDS = (10, 25, 50, 75, 100, 150, 200, 300)

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
        write_json_lines(folder / REPEATED_FILE, repetition.rows())
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
) -> Iterator[tuple[Section, Span, int, Ended]]:
    bare: Section | None = None  # the first of a run of headings without text
    last: Section | None = None
    for section in split_sections(text):
        start = section.start if bare is None else bare.start
        limits, body = Characters(text), section.body
        if limit is not None:
            if limit.count([text[start:body].strip()])[0] > limit.most // 2:
                body = start  # a heading as long as the limit is cut as text
            limits = Tokens(text, limit, start, body)
        units = list(units_of(text, body, section.end, limits, language))
        groups = grouped(units, sentences, overlap, limits)
        if not groups:
            bare = bare or section
            last = section
            continue
        bare = None
        for number, group in enumerate(groups):
            span = Span(group[0].start if number else start, group[-1].end)
            yield section, span, len(group), _ended(group, sentences, last=number == len(groups) - 1)
    if bare and last and text[bare.start :].strip():
        yield last, Span(bare.start, len(text)), 0, ""


def _ended(group: list[Span], sentences: int, *, last: bool) -> Ended:
    if group[-1].goes_on:
        return "sentence"
    return "" if last or len(group) == sentences else "limit"


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
