"""Is a set fit to train on, or to measure with? Each finding says what is wrong and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.leakage import Leaks
from storage.artifacts import EvalSet, MinedTrainSet, TrainingSet
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_corpus, read_retriever_file

FEW_EXAMPLES = 100
FEW_QUERIES = 50
WIDEST_SPREAD = 0.5
"""The largest standard deviation that values between 0 and 1 can have."""

NORMAL_95 = 1.96
MANY_CUT = 0.1
"""Share of passages cut at the maximum length from which it is worth a warning."""

PASSAGES_MEASURED = 20_000
SHOWN = 10

TokenCounter = Callable[[Sequence[str]], Sequence[int]]
"""Tokens of each text as the model sees it, prefix and special tokens included, nothing cut."""


@dataclass(frozen=True)
class Finding:
    """What one check found. ``figures`` are numbers and short texts, ``rows`` a table of examples."""

    passed: bool
    severity: Literal["WARN", "ERROR"]
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: Sequence[Mapping[str, Any]] = ()


def check_exact_leaks(leaks: Leaks) -> Finding:
    """No question and no answer of the exam occurs in training."""
    figures = {"questions": leaks.questions, "passages": leaks.passages, "held_out": leaks.held_out}
    return Finding(leaks.total == 0, "ERROR", figures, leaks.samples)


def check_near_leaks(leaks: Leaks, tolerated_share: float) -> Finding:
    """Few questions of the exam nearly occur in training, or have an answer that does: a warning from the first
    on, an error above the tolerated share."""
    figures = {
        "near_questions": leaks.near_questions,
        "near_answers": leaks.near_answers,
        "share_of_exam_questions": round(leaks.near_share, 4),
        "tolerated_share": tolerated_share,
    }
    if leaks.near_share:
        figures["what_to_do"] = "prep.split_strategy=near_duplicate keeps near duplicates on one side"
    over = leaks.near_share > tolerated_share
    return Finding(leaks.near_share == 0, "ERROR" if over else "WARN", figures, leaks.near_samples)


def check_training_answers(training: TrainingSet | MinedTrainSet, file: str) -> Finding:
    """Every passage that a training question names is in the corpus."""
    source = read_retriever_file(training.path / file)
    known = {name for name, _ in read_corpus(source.corpus)}
    missing = [
        {"question": example.question_id, "passage": each.passage_id}
        for example in source.examples
        for each in (*example.positives, *example.negatives)
        if each.passage_id not in known
    ]
    return Finding(not missing, "ERROR", {"missing": len(missing)}, missing[:SHOWN])


def check_exam_answers(exam: EvalSet) -> Finding:
    """Every answer of the exam is in its corpus."""
    known = {each.doc_id for each in read_documents(exam.beir)}
    missing = [
        {"question": query, "passage": name}
        for query, judged in read_qrels(exam.beir).items()
        for name, score in judged.items()
        if score > 0 and name not in known
    ]
    return Finding(not missing, "ERROR", {"missing": len(missing)}, missing[:SHOWN])


def check_enough_examples(training: TrainingSet) -> Finding:
    """Training has 100 questions at least."""
    count = len(read_retriever_file(training.path / "train.json").examples)
    advice = {} if count >= FEW_EXAMPLES else {"what_to_do": "add documents or lower prep.quality_threshold"}
    return Finding(count >= FEW_EXAMPLES, "WARN", {"training_questions": count, **advice})


def check_enough_queries(exam: EvalSet) -> Finding:
    """The exam has 50 questions at least; and how wide an interval to expect."""
    count = len(read_qrels(exam.beir))
    half = NORMAL_95 * WIDEST_SPREAD / sqrt(max(1, count))
    figures = {"questions": count, "widest_95_percent_interval": f"+-{half:.3f} around a metric's mean"}
    if count < FEW_QUERIES:
        figures["what_to_do"] = "add documents or raise prep.test_ratio: smaller gains will not show"
    return Finding(count >= FEW_QUERIES, "WARN", figures)


def check_training_texts(training: TrainingSet) -> Finding:
    """No training question comes twice, and no text is empty."""
    source = read_retriever_file(training.path / "train.json")
    return _texts(
        [each.question for each in source.examples], (text for _, text in read_corpus(source.corpus))
    )


def check_exam_texts(exam: EvalSet) -> Finding:
    """No question of the exam comes twice, and no text is empty."""
    qrels = read_qrels(exam.beir)
    questions = [each.text for each in read_queries(exam.beir) if each.query_id in qrels]
    return _texts(questions, (each.joined for each in read_documents(exam.beir)))


def check_enough_negatives(mined: MinedTrainSet) -> Finding:
    """Every question has as many hard negatives as asked for."""
    summary = mined.summary()
    names = ("questions_with_fewer_negatives", "questions_filled", "questions_dropped")
    figures = {name: summary[name] for name in names if name in summary}
    return Finding(figures["questions_with_fewer_negatives"] == 0, "WARN", figures)


def check_lengths(mined: MinedTrainSet, count_tokens: TokenCounter, max_length: int) -> Finding:
    """Few passages are longer than the model is given; of a large corpus a sample, evenly spaced, is measured."""
    texts = [text for _, text in read_corpus(mined.path / "corpus")]
    measured = texts[:: -(-len(texts) // PASSAGES_MEASURED)]
    lengths = np.asarray(count_tokens(measured))
    cut = int((lengths > max_length).sum())
    middle, high, top = (int(value) for value in np.percentile(lengths, [50, 90, 99]))
    figures = {
        "passages_measured": len(measured),
        "median_tokens": middle,
        "tokens_90_percent": high,
        "tokens_99_percent": top,
        "longest": int(lengths.max()),
        "passage_max_length": max_length,
        "cut": cut,
        "share_cut": round(cut / len(measured), 4),
    }
    if cut > MANY_CUT * len(measured):
        figures["what_to_do"] = "raise model.passage_max_length or lower passages.sentences_per_chunk"
    longest = [measured[place] for place in np.argsort(-lengths, kind="stable")[:3]]
    rows = [{"longest_passages": text[:200]} for text in longest] if cut else []
    return Finding(cut <= MANY_CUT * len(measured), "WARN", figures, rows)


def token_counter(model: Path, prefix: str) -> TokenCounter:
    """Counts with the tokenizer of the model folder ``model``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)

    def count(texts: Sequence[str]) -> list[int]:
        encoded = tokenizer([prefix + text for text in texts], truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    return count


def _texts(questions: Sequence[str], passages: Iterable[str]) -> Finding:
    times = Counter(map(question_key, questions))
    twice = {key: count for key, count in times.items() if count > 1}
    figures = {
        "duplicated_questions": sum(count - 1 for count in twice.values()),
        "empty_questions": times.get("", 0),
        "empty_passages": sum(not text.strip() for text in passages),
    }
    rows = [{"question": key, "times": count} for key, count in list(twice.items())[:SHOWN]]
    return Finding(not any(figures.values()), "WARN", figures, rows)
