"""Filters the pairs by score, validity and duplicates, and records why each of the others was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from assets_pkg.config.sections.prep import SplitSettings
from storage.digests import passage_id
from storage.formats.qa_records import QAPair, SourceRecord

UNPAIRED = "evaluations_do_not_match_pairs"
OTHER_TEXT = "source_id_of_another_text"
LOW = "below_quality_threshold"
REPEATED = "repeated_pair"

SHOWN_OF_EACH = 5
"""Examples of each reason; ``rejected.jsonl`` has all rejected pairs."""


@dataclass(frozen=True)
class Question:
    """A pair that was kept: ``positives`` are the ids of its passages, in the order of its segments; ``where`` is
    its location in the file that it came from."""

    question_id: str
    document: str
    pair: QAPair
    quality_score: float
    positives: tuple[str, ...]
    file_name: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class Rejections:
    """Pairs left out: ``rows`` of ``{reason, where, document, question}``, ``where`` being the line or row of the
    file that the pair came from."""

    rows: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def add(self, reason: str, where: str, document: str, question: str) -> None:
        self.rows.append({"reason": reason, "where": where, "document": document, "question": question})

    def counts(self) -> Counter[str]:
        """How many, by reason."""
        return Counter(row["reason"] for row in self.rows)

    def shown(self) -> list[dict[str, str]]:
        """The first few of each reason, without low scores: those follow from a setting and are no faults."""
        seen: Counter[str] = Counter()
        shown: list[dict[str, str]] = []
        for row in self.rows:
            seen[row["reason"]] += 1
            if row["reason"] != LOW and seen[row["reason"]] <= SHOWN_OF_EACH:
                shown.append({**row, "question": row["question"][:200]})
        return shown


@dataclass(frozen=True)
class LocatedRecord:
    """A record with its location, ``file:line``; pairs of the user's own have the location in the user's file."""

    record: SourceRecord
    where: str

    @property
    def order(self) -> tuple[object, ...]:
        """The sort key: the document, then everything that is read here, so that only equal records compare equal."""
        record = self.record
        pairs = record.deduplicated_qa_pairs
        return (
            record.source_id,
            record.text,
            [chunk.text for chunk in record.chunks],
            [pair.question for pair in pairs],
            [pair.segment_ids for pair in pairs],
            [pair.answer for pair in pairs],
            [each.overall.score for each in record.qa_evaluations.evaluations],
        )

    def reject(self, rejected: Rejections, reason: str, pairs: Iterable[QAPair]) -> None:
        for pair in pairs:
            rejected.add(reason, pair.origin or self.where, self.record.source_id, pair.question)


def question_key(text: str) -> str:
    """The text without differences of case and spacing: questions with equal keys are the same."""
    return " ".join(text.casefold().split())


def filter_pairs(
    records: Iterable[LocatedRecord], settings: SplitSettings
) -> tuple[list[Question], Rejections]:
    """The pairs that pass, and those that do not. Ids number all pairs, rejected ones too, so that they do not change
    with the threshold."""
    kept: list[Question] = []
    rejected = Rejections()
    seen: set[tuple[str, frozenset[str]]] = set()
    text_of: dict[str, str] = {}
    number = 0
    for located in records:
        pairs = located.record.deduplicated_qa_pairs
        if reason := _reject_record(located.record, text_of):
            located.reject(rejected, reason, pairs)
        else:
            for question, reason in _questions(located, number, settings):
                key = question_key(question.pair.question), frozenset(question.positives)
                if reason or key in seen:
                    located.reject(rejected, reason or REPEATED, [question.pair])
                else:
                    seen.add(key)
                    kept.append(question)
        number += len(pairs)
    return kept, rejected


def _reject_record(record: SourceRecord, text_of: dict[str, str]) -> str | None:
    """Why none of a record's pairs can be used, or None."""
    if len(record.qa_evaluations.evaluations) != len(record.deduplicated_qa_pairs):
        return UNPAIRED
    text = record.text or "\n".join(chunk.text for chunk in record.chunks)
    return None if text_of.setdefault(record.source_id, text) == text else OTHER_TEXT


def _questions(
    located: LocatedRecord, first: int, settings: SplitSettings
) -> Iterable[tuple[Question, str | None]]:
    """Every pair of a record as a question, and why it is rejected, or None."""
    record = located.record
    chunks = _chunks(record)
    scored = zip(record.deduplicated_qa_pairs, record.qa_evaluations.evaluations, strict=True)
    for number, (pair, evaluation) in enumerate(scored, start=first):
        score = evaluation.overall.score
        positives = dict.fromkeys(passage_id(chunks[each]) for each in pair.segment_ids if each in chunks)
        question = Question(
            f"q{number}",
            record.source_id,
            pair,
            score,
            tuple(positives),
            tuple(record.file_name),
            pair.origin or located.where,
        )
        yield question, _reject_pair(pair, score, chunks, settings)


def _chunks(record: SourceRecord) -> dict[int, str]:
    """Texts by ``chunk_id``; empty where two chunks with different texts have the same id."""
    chunks: dict[int, str] = {}
    for chunk in record.chunks:
        if chunks.setdefault(chunk.chunk_id, chunk.text) != chunk.text:
            chunks[chunk.chunk_id] = ""
    return chunks


def _reject_pair(
    pair: QAPair, score: float, chunks: Mapping[int, str], settings: SplitSettings
) -> str | None:
    segments = set(pair.segment_ids)
    if score < settings.quality_threshold:
        return LOW
    if not pair.question.strip():
        return "empty_question"
    if not segments or any(not chunks.get(segment, "").strip() for segment in segments):
        return "segment_does_not_exist"
    if len(segments) > settings.max_pos_docs:
        return "more_than_max_pos_docs"
    return None
