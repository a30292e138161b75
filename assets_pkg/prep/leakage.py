"""Does the eval set know anything that training has seen? Exact and near duplicates, counted and shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.near_duplicates import near_pairs
from storage.artifacts import EvalSet, TrainingSet
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.formats.retriever_json import read_corpus, read_retriever_file

SHOWN = 10
NEAR = 0.8
"""Similarity of texts that are nearly the same, where nobody says otherwise."""


@dataclass(frozen=True)
class Leaks:
    """Test questions that are asked in training too; test answers that are answers in training too; training
    answers that lie in a held-out document. ``samples``: the first ten, each ``{kind, id, text}``.

    ``near_questions``, ``near_answers``: those of the eval set that are nearly the same as one of training, and not
    exactly; ``near_samples``: the first ten, each ``{kind, id, text, in_training, similarity}``.
    ``near_share``: the share of the eval set's questions that are near to one of training or have a near answer.
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
    """What is compared: questions and answers by id, of training and of the eval set; ``answers_of`` the eval set's
    questions."""

    trained_questions: dict[str, str]
    trained_answers: dict[str, str]
    questions: dict[str, str]
    answers: dict[str, str]
    answers_of: dict[str, frozenset[str]]


def find_leaks(training_set: TrainingSet, eval_set: EvalSet, threshold: float = NEAR) -> Leaks:
    """Compare the questions and positive passages of ``train.json`` with those of the eval set.

    Texts are compared without regard to case and spacing.

    Args:
        threshold: similarity from which two texts are nearly the same (``near_duplicates``).

    Raises:
        RetrieverFileError, BeirError: a file of one of the sets cannot be read.
    """
    texts = _read(training_set, eval_set)
    asked = {question_key(text) for text in texts.trained_questions.values()}
    known = {question_key(text) for text in texts.trained_answers.values()}
    questions = {name: text for name, text in texts.questions.items() if question_key(text) in asked}
    answers = {name: text for name, text in texts.answers.items() if question_key(text) in known}
    hidden = held_out_passages(training_set)
    held_out = {name: text for name, text in texts.trained_answers.items() if name in hidden}
    near_questions = _near(texts.questions, questions, texts.trained_questions, threshold)
    near_answers = _near(texts.answers, answers, texts.trained_answers, threshold)
    touched = [
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
        near_share=len(touched) / max(1, len(texts.questions)),
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
        trained_answers={name: text for name, text in read_corpus(training.corpus) if name in trained},
        questions={
            each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels
        },
        answers={each.doc_id: each.joined for each in read_documents(eval_set.beir) if each.doc_id in judged},
        answers_of=answers_of,
    )


def _near(
    eval_set: Mapping[str, str], exact: Mapping[str, str], trained: Mapping[str, str], threshold: float
) -> dict[str, dict[str, Any]]:
    """For each text of the eval set that is nearly one of training and exactly none, the one it is most like."""
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


def held_out_passages(training_set: TrainingSet) -> frozenset[str]:
    """Ids of passages that training may not see; none where the set does not say (``splits.json``)."""
    path = training_set.path / "splits.json"
    if not path.exists():
        return frozenset()
    return frozenset(json.loads(path.read_text("utf-8"))["held_out_passages"])


def _samples(kind: str, found: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"kind": kind, "id": name, "text": text[:200]} for name, text in list(found.items())[:SHOWN]]
