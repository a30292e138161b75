"""The mined training set and the validation questions, read from the recipe's retriever JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.finetune.errors import TrainingDataError
from storage.formats.retriever_json import RetrieverExample, RetrieverFile, read_retriever_file

VALIDATION_POOL = 1000
"""Passages that validation questions are searched in."""


@dataclass(frozen=True)
class Example:
    """One row: a question, one passage that answers it, and passages mined as wrong, hardest first."""

    question_id: str
    question: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class TrainData:
    """Rows, the text of every passage they name, and all positives of each question *text*: these are never negatives
    of it, in any row."""

    examples: list[Example]
    passages: dict[str, str]
    known_positives: dict[str, frozenset[str]]

    @property
    def median_negatives(self) -> float:
        return statistics.median(len(example.negatives) for example in self.examples)


@dataclass(frozen=True)
class ValidationData:
    """Held-out questions, their positives, and the pool of passages that is searched."""

    questions: dict[str, str]
    positives: dict[str, frozenset[str]]
    pool: dict[str, str]


def read_train_data(path: Path, negatives_per_question: int) -> TrainData:
    """Read ``train_mined.automodel_unrolled.json`` with the first ``negatives_per_question`` negatives.

    Raises:
        RetrieverFileError: the file is missing or malformed.
        TrainingDataError: no rows, a row without a question or a positive, or an id that the corpus lacks.
    """
    source = read_retriever_file(path)
    if not source.examples:
        raise TrainingDataError(f"{path}: no training rows: add documents or lower prep.quality_threshold")
    examples = [_example(row, path, negatives_per_question) for row in source.examples]
    known: dict[str, set[str]] = {}
    for row in source.examples:
        known.setdefault(row.question, set()).update(each.passage_id for each in row.positives)
    owner = {name: e.question_id for e in examples for name in (e.positive, *e.negatives)}
    return TrainData(
        examples=examples,
        passages=_texts(source, set(owner), path, owner),
        known_positives={question: frozenset(ids) for question, ids in known.items()},
    )


def read_validation_data(path: Path, pool_size: int = VALIDATION_POOL) -> ValidationData | None:
    """Read ``val.json``: its questions, and a pool of their positives, filled up to ``pool_size`` with other
    passages of the corpus, evenly spaced in id order. None if there is no such file or it holds no rows."""
    if not path.exists():
        return None
    source = read_retriever_file(path)
    if not source.examples:
        return None
    positives = {
        row.question_id: frozenset(each.passage_id for each in row.positives) for row in source.examples
    }
    owner = {name: question_id for question_id, names in positives.items() for name in names}
    others = sorted({name for name, _ in source.passages()} - set(owner))
    missing = max(0, min(pool_size - len(owner), len(others)))
    filler = [others[index * len(others) // missing] for index in range(missing)]
    return ValidationData(
        questions={row.question_id: row.question for row in source.examples},
        positives=positives,
        pool=_texts(source, set(owner) | set(filler), path, owner),
    )


def _example(row: RetrieverExample, path: Path, negatives: int) -> Example:
    if not row.question.strip():
        raise TrainingDataError(f"{path}: question {row.question_id}: 'question' is empty")
    if not row.positives:
        raise TrainingDataError(f"{path}: question {row.question_id}: 'pos_doc' is empty")
    mined = tuple(each.passage_id for each in row.negatives[:negatives])
    return Example(row.question_id, row.question, row.positives[0].passage_id, mined)


def _texts(source: RetrieverFile, wanted: set[str], path: Path, owner: dict[str, str]) -> dict[str, str]:
    """Texts of the wanted ids, in id order."""
    texts = {name: text for name, text in source.passages() if name in wanted}
    if missing := sorted(wanted - set(texts)):
        raise TrainingDataError(
            f"{path}: question {owner[missing[0]]} names passage {missing[0]}, which is not in its corpus: "
            "run the prep stage again"
        )
    return dict(sorted(texts.items()))
