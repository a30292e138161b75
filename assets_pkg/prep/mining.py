"""Hard negatives: the passages nearest to a question that are not suspected of answering it.

Positive-aware mining as in NV-Retriever (https://arxiv.org/abs/2407.15831): with p the lowest score of a
question's positives and m the margin, a passage may score at most p - (1 - m)|p| (``perc``) or p - m
(``abs``); ``perc`` is written so that it stays below p when p is negative.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.leakage import held_out_passages
from assets_pkg.prep.mining_report import describe_mining, draw_scores
from assets_pkg.prep.search import TopK, exact_search, pair_scores
from assets_pkg.prep.split import question_key
from assets_pkg.profile import MiningSettings
from resources.encoders.base import Encoder
from storage.artifacts import TrainingSet
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    read_corpus,
    read_retriever_file,
    unroll,
    write_retriever_file,
)
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECIMALS = 6
"""Of scores in files: more would be rounding noise of the encoder."""


@dataclass(frozen=True)
class Pool:
    """The passages that may be mined: what training documents hold, and documents without questions.

    ``place_of``: row of ``texts`` by passage id. ``same_text``: rows by text, spacing aside.
    """

    ids: list[str]
    texts: list[str]
    place_of: dict[str, int]
    same_text: dict[str, list[int]]


@dataclass(frozen=True)
class Mined:
    """What was found. ``positives`` (rows of the pool) and ``positive_scores`` run along the questions."""

    examples: list[RetrieverExample]
    pool: Pool
    positives: list[list[int]]
    positive_scores: list[NDArray[np.float64]]
    found: TopK


def mine_hard_negatives(
    training_set: TrainingSet,
    encoder: Encoder,
    settings: MiningSettings,
    folder: Path,
    progress: Progress = no_progress,
    *,
    device: str = "cpu",
) -> None:
    """Write ``train_mined.automodel.json``, its unrolled form, ``val.json``, ``corpus/``, ``summary.json`` and
    ``scores.png``.

    A negative is never a positive of its question (or of the same question asked elsewhere), never the text of
    one under another id, and never a passage of a held-out document. Where fewer than
    ``hard_negatives_to_mine`` are left, fewer are written, and ``summary.json`` counts it.

    Args:
        device: the torch device of the search.

    Raises:
        PrepError: a question names a passage that the corpus lacks or that is held out.
        RetrieverFileError: a file of the training set cannot be read.
    """
    source = read_retriever_file(training_set.path / "train.json")
    pool = _read_pool(training_set)
    positives = [_places(example, pool) for example in source.examples]
    questions = encoder.embed([example.question for example in source.examples], "query", progress)
    passages = encoder.embed(pool.texts, "passage", progress)
    positive_scores = _positive_scores(questions, passages, positives)
    found = exact_search(
        questions,
        passages,
        settings.hard_negatives_to_mine,
        ceilings=ceilings(np.array([scores.min() for scores in positive_scores]), settings),
        excluded=_excluded(source.examples, positives, pool),
        query_block=settings.mining_batch_size,
        device=device,
        progress=progress,
    )
    _write(Mined(source.examples, pool, positives, positive_scores, found), training_set, settings, folder)


def ceilings(lowest_positive: NDArray[np.float64], settings: MiningSettings) -> NDArray[np.float64]:
    """The highest score a negative may have, given the lowest positive's: float64 [n] of float64 [n]."""
    if settings.hard_neg_margin_type == "perc":
        return lowest_positive - (1 - settings.hard_neg_margin) * np.abs(lowest_positive)
    return lowest_positive - settings.hard_neg_margin


# ---- reading -------------------------------------------------------------------------------------------------


def _read_pool(training_set: TrainingSet) -> Pool:
    held_out = held_out_passages(training_set)
    pool = Pool([], [], {}, defaultdict(list))
    for name, text in read_corpus(training_set.path / "corpus"):
        if name in held_out:
            continue
        place = pool.place_of[name] = len(pool.ids)
        pool.ids.append(name)
        pool.texts.append(text)
        pool.same_text[_text_key(text)].append(place)
    return pool


def _places(example: RetrieverExample, pool: Pool) -> list[int]:
    names = [positive.passage_id for positive in example.positives]
    if not names:
        raise PrepError(f"train.json: question {example.question_id} has no positive passage")
    for name in names:
        if name not in pool.place_of:
            raise PrepError(
                f"train.json: question {example.question_id} names passage {name}, which is not in corpus/ or "
                "belongs to a held-out document: make the training set again"
            )
    return [pool.place_of[name] for name in names]


def _excluded(
    examples: Sequence[RetrieverExample], positives: Sequence[Sequence[int]], pool: Pool
) -> list[list[int]]:
    """For each question the rows that answer it: its positives, those of the same question asked elsewhere,
    and every row with the text of one of them."""
    answers: defaultdict[str, set[int]] = defaultdict(set)
    for example, places in zip(examples, positives, strict=True):
        for place in places:
            answers[question_key(example.question)].update(pool.same_text[_text_key(pool.texts[place])])
    return [sorted(answers[question_key(example.question)]) for example in examples]


def _text_key(text: str) -> str:
    return " ".join(text.split())


def _positive_scores(
    questions: Any, passages: Any, positives: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    counts = [len(places) for places in positives]
    rows = np.repeat(np.arange(len(positives)), counts)
    columns = np.fromiter((place for places in positives for place in places), dtype=np.int64)
    scores = pair_scores(questions, passages, np.stack([rows, columns], axis=1))
    return np.split(scores, np.cumsum(counts)[:-1])


# ---- writing -------------------------------------------------------------------------------------------------


def _write(mined: Mined, training_set: TrainingSet, settings: MiningSettings, folder: Path) -> None:
    examples = list(_mined_examples(mined))
    arguments = settings.model_dump(mode="json", exclude={"mining_batch_size"})
    write_retriever_file(folder / "train_mined.automodel.json", examples, arguments)
    write_retriever_file(folder / "train_mined.automodel_unrolled.json", unroll(examples), arguments)
    _take_over(training_set.path, folder, ["val.json", "corpus/train.parquet", "corpus/merlin_metadata.json"])
    texts = dict(zip(mined.pool.ids, mined.pool.texts, strict=True))
    summary = describe_mining(examples, texts, mined.found.above, settings)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw_scores(summary["histogram"], folder / "scores.png")


def _mined_examples(mined: Mined) -> Iterator[RetrieverExample]:
    for row, example in enumerate(mined.examples):
        negatives = [
            PassageRef(mined.pool.ids[place], round(float(score), DECIMALS))
            for place, score in zip(mined.found.ids[row], mined.found.scores[row], strict=True)
            if place >= 0
        ]
        positives = [
            PassageRef(mined.pool.ids[place], round(float(score), DECIMALS))
            for place, score in zip(mined.positives[row], mined.positive_scores[row], strict=True)
        ]
        yield RetrieverExample(example.question_id, example.question, tuple(positives), tuple(negatives))


def _take_over(source: Path, folder: Path, names: Sequence[str]) -> None:
    """The same files in another version: hard links where the disk has them, since neither ever changes."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source / name, target)
        except OSError:
            shutil.copyfile(source / name, target)
