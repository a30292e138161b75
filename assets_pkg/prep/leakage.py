"""Does the exam know anything that training has seen? Exact duplicates, counted and shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from assets_pkg.prep.split import question_key
from storage.artifacts import EvalSet, TrainingSet
from storage.digests import digest_text
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_corpus, read_retriever_file

SHOWN = 10


@dataclass(frozen=True)
class Leaks:
    """Test questions that are asked in training too; test answers that are answers in training too; training
    answers that lie in a held-out document. ``samples``: the first ten, each ``{kind, id, text}``."""

    questions: int
    passages: int
    held_out: int
    samples: list[dict[str, str]]

    @property
    def total(self) -> int:
        return self.questions + self.passages + self.held_out


def find_leaks(training_set: TrainingSet, eval_set: EvalSet) -> Leaks:
    """Compare the questions and positive passages of ``train.json`` with those of the exam.

    Texts are compared without regard to case and spacing.

    Raises:
        RetrieverFileError, BeirError: a file of one of the sets cannot be read.
    """
    training = read_retriever_file(training_set.path / "train.json")
    answers = {positive.passage_id for example in training.examples for positive in example.positives}
    texts = {name: text for name, text in read_corpus(training.corpus) if name in answers}
    asked = {question_key(example.question) for example in training.examples}
    known = {_text_key(text) for text in texts.values()}
    qrels = read_qrels(eval_set.beir)
    judged = {name for each in qrels.values() for name, score in each.items() if score > 0}
    questions = [
        (each.query_id, each.text)
        for each in read_queries(eval_set.beir)
        if each.query_id in qrels and question_key(each.text) in asked
    ]
    passages = [
        (each.doc_id, each.joined)
        for each in read_documents(eval_set.beir)
        if each.doc_id in judged and _text_key(each.joined) in known
    ]
    forbidden = held_out_passages(training_set)
    held_out = [(name, texts[name]) for name in sorted(answers & forbidden)]
    samples = [
        *_samples("question", questions),
        *_samples("answer of the exam", passages),
        *_samples("answer in a held-out document", held_out),
    ]
    return Leaks(len(questions), len(passages), len(held_out), samples[:SHOWN])


def held_out_passages(training_set: TrainingSet) -> frozenset[str]:
    """Ids of passages that training may not see; none where the set does not say (``splits.json``)."""
    path = training_set.path / "splits.json"
    if not path.exists():
        return frozenset()
    return frozenset(json.loads(path.read_text("utf-8"))["held_out_passages"])


def _text_key(text: str) -> str:
    return digest_text(question_key(text))


def _samples(kind: str, found: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"kind": kind, "id": name, "text": text[:200]} for name, text in list(found)[:SHOWN]]
