"""The offline generator: pairs from the documents' structure, one a section, without a language model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.errors import SdgError
from assets_pkg.sdg.question_filters import normalize_question
from assets_pkg.sdg.round_trip import ranks_of_positives, score_of_rank
from assets_pkg.sdg.templates import TemplatePair, apply_templates
from resources.encoders.base import Encoder
from storage.artifacts import Corpus, Passage, Passages
from storage.digests import passage_id
from storage.files import write_json, write_json_lines
from storage.formats.qa_records import (
    Chunk,
    HopContext,
    OverallJudgement,
    QAEvaluation,
    QAEvaluations,
    QAPair,
    SourceRecord,
    write_generation_result,
    write_records,
)
from storage.progress import Progress, no_progress

PassageKey = tuple[str, int]
"""``doc_id`` and ``chunk_id``."""


def generate_offline(
    corpus: Corpus,
    passages: Passages,
    settings: SdgSettings,
    encoder: Encoder,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Write ``qa_records.jsonl`` (one record per document), ``rejected.jsonl`` and ``summary.json``.

    A record's chunks are the document's passages; the text of a question is removed from the passage that answers
    it. ``overall.score`` is the pair's round-trip rank as a number
    (:func:`~assets_pkg.sdg.round_trip.score_of_rank`); there are no other judgements.

    Raises:
        SdgError: no document has a structure that yields a pair.
    """
    pairs, rejected = _select(passages)
    if not pairs:
        raise SdgError(_none_found(rejected))
    selected = list(pairs.values())
    total = passages.summary()["distinct_texts"]
    positives = {pair.positive for pair in selected}
    ranks = ranks_of_positives(
        [pair.question for pair in selected],
        [pair.positive for pair in selected],
        _other_texts(passages, pairs),
        encoder,
        progress,
        # Not ``total``: of copies of one passage, one may answer a question, and the others stay as they are.
        len(positives) + sum(1 for _ in _other_texts(passages, pairs)),
    )
    ranked = {key: int(rank) for key, rank in zip(pairs, ranks, strict=True)}
    records = _records(corpus, passages, pairs, ranked, total, settings.generator)
    count = write_records(folder / "qa_records.jsonl", records)
    _write_rejected(folder / "rejected.jsonl", rejected)
    summary = {"documents": count, **_figures(selected, rejected, list(ranked.values()), total)}
    write_json(folder / "summary.json", summary, ensure_ascii=True)
    write_generation_result(folder, folder / "qa_records.jsonl")


# ---- selection -----------------------------------------------------------------------------------------------


def _select(passages: Passages) -> tuple[dict[PassageKey, TemplatePair], list[TemplatePair]]:
    """The pairs to use, by passage, and the rejected ones with their reason."""
    found = [pair for passage in passages.passages() if (pair := apply_templates(passage))]
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in found:
        answers[normalize_question(pair.question)].add(passage_id(pair.positive))
    kept: dict[PassageKey, TemplatePair] = {}
    rejected: list[TemplatePair] = []
    asked: set[str] = set()
    for pair in found:
        question = normalize_question(pair.question)
        reason = pair.rejection
        if not reason and len(answers[question]) > 1:
            reason = "ambiguous: other passages stand under the same question"
        elif not reason and question in asked:
            reason = "duplicate: the same question and passage came before"
        if reason:
            rejected.append(replace(pair, rejection=reason))
        else:
            asked.add(question)
            kept[pair.doc_id, pair.chunk_id] = pair
    return kept, rejected


def _other_texts(passages: Passages, pairs: dict[PassageKey, TemplatePair]) -> Iterator[str]:
    """Distinct texts of the passages that answer no question."""
    seen = {passage_id(pair.positive) for pair in pairs.values()}
    for passage in passages.passages():
        if (passage.doc_id, passage.chunk_id) not in pairs and passage.passage_id not in seen:
            seen.add(passage.passage_id)
            yield passage.text


# ---- records -------------------------------------------------------------------------------------------------


def _records(
    corpus: Corpus,
    passages: Passages,
    pairs: dict[PassageKey, TemplatePair],
    ranks: dict[PassageKey, int],
    total: int,
    generator: str,
) -> Iterator[SourceRecord]:
    by_document = groupby(passages.passages(), key=attrgetter("doc_id"))
    following = next(by_document, None)
    for document in corpus.documents():
        own: list[Passage] = []
        if following and following[0] == document.doc_id:
            own = list(following[1])
            following = next(by_document, None)
        keys = [(passage.doc_id, passage.chunk_id) for passage in own]
        answered = [key for key in keys if key in pairs]
        yield SourceRecord(
            file_name=[document.doc_id],
            source_id=document.doc_id,
            text=document.text,
            chunks=[_chunk(passage, pairs.get(key)) for passage, key in zip(own, keys, strict=True)],
            deduplicated_qa_pairs=[_qa(pairs[key]) for key in answered],
            qa_evaluations=QAEvaluations(
                evaluations=[_evaluation(pairs[key], ranks[key], total) for key in answered]
            ),
            generator=generator,
        )


def _chunk(passage: Passage, pair: TemplatePair | None) -> Chunk:
    text = passage.text if pair is None else pair.positive
    return Chunk(
        text=text,
        chunk_id=passage.chunk_id,
        start=passage.start,
        end=passage.end,
        sentence_count=passage.sentence_count,
        word_count=len(text.split()),
        doc_chunk_index=passage.chunk_id - 1,
        doc_id=passage.doc_id,
        doc_path=passage.doc_id,
    )


def _qa(pair: TemplatePair) -> QAPair:
    context = HopContext(hop_number=1, segment_ids=[pair.chunk_id])
    return QAPair(
        question=pair.question, answer=pair.answer, segment_ids=[pair.chunk_id], hop_contexts=[context]
    )


def _evaluation(pair: TemplatePair, rank: int, total: int) -> QAEvaluation:
    assessment = f"{pair.kind}; round-trip rank {rank} of {total}"
    return QAEvaluation(overall=OverallJudgement(score=score_of_rank(rank), assessment=assessment))


# ---- reports -------------------------------------------------------------------------------------------------


def _write_rejected(path: Path, rejected: list[TemplatePair]) -> None:
    rows = (
        {
            "document": pair.doc_id,
            "chunk_id": pair.chunk_id,
            "question": pair.question,
            "reason": pair.rejection,
        }
        for pair in rejected
    )
    write_json_lines(path, rows)


def _figures(
    pairs: list[TemplatePair], rejected: list[TemplatePair], ranks: list[int], total: int
) -> dict[str, Any]:
    within = {f"rank_within_{limit}": sum(rank <= limit for rank in ranks) for limit in (1, 10, 100)}
    return {
        "pairs": len(pairs),
        "pairs_by_kind": dict(Counter(pair.kind for pair in pairs).most_common()),
        "documents_with_pairs": len({pair.doc_id for pair in pairs}),
        "passages_searched": total,
        **within,
        "rejected": len(rejected),
        "rejected_by_reason": _reasons(rejected),
    }


def _reasons(rejected: list[TemplatePair]) -> dict[str, int]:
    return dict(Counter(pair.rejection.partition(":")[0] for pair in rejected).most_common())


def _none_found(rejected: list[TemplatePair]) -> str:
    reasons = ", ".join(f"{count} x {reason}" for reason, count in _reasons(rejected).items())
    return (
        "no question was found in the documents: the offline generator needs titles, headings or summaries above their "
        f"text ({reasons or 'no section was found'}). Add headings, or set sdg.generator=llm"
    )
