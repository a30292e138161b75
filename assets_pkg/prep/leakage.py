"""Leakage from the training set into the eval set: exact and near duplicates, with examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.near_duplicates import near_pairs
from storage.artifacts import EvalSet, TrainingSet
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_retriever_file

SHOWN = 10
NEAR = 0.8
"""The default similarity from which two texts are near duplicates."""


@dataclass(frozen=True)
class Leaks:
    """Exact leaks: ``questions`` of the eval set that are training questions too, ``passages``: its answers that are
    training answers too, ``held_out``: training answers in a held-out document. ``samples``: the first ten, each
    ``{kind, id, text}``.

    ``near_questions``, ``near_answers``: those of the eval set that are near duplicates of one of training, without
    the exact ones; ``near_samples``: the first ten, each ``{kind, id, text, in_training, similarity}``.
    ``near_share``: the share of the eval set's questions with a near duplicate of their own or of an answer.
    """

    questions: int
    passages: int
    held_out: int
    samples: list[dict[str, str]]
    near_questions: int
    near_answers: int
    near_share: float
    near_samples: list[dict[str, Any]]

    @property
    def total(self) -> int:
        """Exact leaks."""
        return self.questions + self.passages + self.held_out


@dataclass(frozen=True)
class _Texts:
    """What is compared: questions and answers by id, of training and of the eval set; ``answers_of``: ids of answers
    by question of the eval set."""

    trained_questions: dict[str, str]
    trained_answers: dict[str, str]
    questions: dict[str, str]
    answers: dict[str, str]
    answers_of: dict[str, frozenset[str]]


def find_leaks(training_set: TrainingSet, eval_set: EvalSet, threshold: float = NEAR) -> Leaks:
    """Compare the questions and positive passages of ``train.json`` with those of the eval set.

    Differences of case and spacing are ignored.

    Args:
        training_set: the training set.
        eval_set: the eval set.
        threshold: similarity from which two texts are near duplicates (:mod:`~assets_pkg.prep.near_duplicates`).

    Raises:
        RetrieverFileError, BeirError: a file of one of the sets cannot be read.
    """
    texts = _read(training_set, eval_set)
    asked = {question_key(text) for text in texts.trained_questions.values()}
    known = {question_key(text) for text in texts.trained_answers.values()}
    questions = {name: text for name, text in texts.questions.items() if question_key(text) in asked}
    answers = {name: text for name, text in texts.answers.items() if question_key(text) in known}
    held_out_ids = training_set.held_out_passages()
    held_out = {name: text for name, text in texts.trained_answers.items() if name in held_out_ids}
    near_questions = _near(texts.questions, questions, texts.trained_questions, threshold)
    near_answers = _near(texts.answers, answers, texts.trained_answers, threshold)
    affected = [
        name
        for name in texts.questions
        if name in near_questions or texts.answers_of[name] & set(near_answers)
    ]
    return Leaks(
        questions=len(questions),
        passages=len(answers),
        held_out=len(held_out),
        samples=[
            *_samples("question", questions),
            *_samples("answer of the eval set", answers),
            *_samples("answer in a held-out document", dict(sorted(held_out.items()))),
        ][:SHOWN],
        near_questions=len(near_questions),
        near_answers=len(near_answers),
        near_share=len(affected) / max(1, len(texts.questions)),
        near_samples=[
            {"kind": kind, "id": name, **shown}
            for kind, near in (("question", near_questions), ("answer", near_answers))
            for name, shown in list(near.items())[: SHOWN // 2]
        ],
    )


def _read(training_set: TrainingSet, eval_set: EvalSet) -> _Texts:
    training = read_retriever_file(training_set.path / "train.json")
    trained = {positive.passage_id for example in training.examples for positive in example.positives}
    qrels = read_qrels(eval_set.beir)
    answers_of = {
        query: frozenset(name for name, score in judged.items() if score > 0)
        for query, judged in qrels.items()
    }
    judged = frozenset().union(*answers_of.values())
    return _Texts(
        trained_questions={each.question_id: each.question for each in training.examples},
        trained_answers={name: text for name, text in training.passages() if name in trained},
        questions={
            each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels
        },
        answers={each.doc_id: each.joined for each in read_documents(eval_set.beir) if each.doc_id in judged},
        answers_of=answers_of,
    )


def _near(
    eval_set: Mapping[str, str], exact: Mapping[str, str], trained: Mapping[str, str], threshold: float
) -> dict[str, dict[str, Any]]:
    """For each text of the eval set with a near duplicate in training, and no exact one, the most similar."""
    names = [name for name in eval_set if name not in exact]
    texts = list(trained.values())
    nearest: dict[str, dict[str, Any]] = {}
    for pair in near_pairs([eval_set[name] for name in names], texts, threshold):
        name, similarity = names[pair.left], round(pair.similarity, 3)
        if similarity > nearest.get(name, {"similarity": 0.0})["similarity"]:
            nearest[name] = {
                "text": eval_set[name][:200],
                "in_training": texts[pair.right][:200],
                "similarity": similarity,
            }
    return nearest


def _samples(kind: str, found: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"kind": kind, "id": name, "text": text[:200]} for name, text in list(found.items())[:SHOWN]]
