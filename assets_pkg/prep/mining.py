"""Mines hard negatives: the passages most similar to a question whose score makes an answer unlikely.

Positive-aware mining as in NV-Retriever (https://arxiv.org/abs/2407.15831): with p the lowest score of a
question's positives and m the margin, a passage may score at most p - (1 - m)|p| (``perc``) or p - m
(``abs``); ``perc`` is written so that it stays below p when p is negative. The scores are the base model's, or those
of a teacher.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.config.sections.prep import MiningSettings
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.mining_report import describe_margin, describe_mining, draw_scores
from assets_pkg.prep.stored_vectors import stored_vectors, vector_file
from assets_pkg.retrieval.exact_search import TopK, pair_scores
from assets_pkg.retrieval.parallel_search import search_file
from assets_pkg.retrieval.teachers import Ranking, Teacher
from resources.compute.distributed_embedding import MakeShards
from resources.encoders.base import Encoder
from storage.artifacts import TrainingSet
from storage.files import copy_file, write_json
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    RetrieverFile,
    read_corpus,
    read_retriever_file,
    unroll,
    write_retriever_file,
)
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

OpenTeacher = Callable[[Sequence[str]], AbstractContextManager[Teacher]]

TEACHER_DEPTH = 100
"""Passages that a teacher ranks for each question: those that it does not list are not suspected."""

DECIMALS = 6
"""Of scores in files; further digits differ between encoder runs."""


@dataclass(frozen=True)
class Pool:
    """The passages that may be mined: those of training documents and of documents without questions.

    ``row_of``: row of ``texts`` by passage id. ``same_text``: rows by text, spacing normalized.
    """

    ids: list[str]
    texts: list[str]
    row_of: dict[str, int]
    same_text: dict[str, list[int]]


@dataclass(frozen=True)
class Mined:
    """The mined negatives, by question. ``positives``: rows of the pool; ``positive_scores``: float64; ``found``: the
    negatives; ``above_margin``: rows of the pool, with scores, that fill up a question with too few negatives."""

    examples: list[RetrieverExample]
    pool: Pool
    positives: list[list[int]]
    positive_scores: list[NDArray[np.float64]]
    found: TopK
    above_margin: dict[int, list[tuple[int, float]]]

    def short(self) -> NDArray[np.bool_]:
        """Questions with too few negatives within the margin: bool [n]."""
        return np.asarray((self.found.ids < 0).any(axis=1))


def mine_hard_negatives(
    training_set: TrainingSet,
    encoder: Encoder,
    settings: MiningSettings,
    folder: Path,
    progress: Progress = no_progress,
    *,
    devices: Sequence[str] = ("cpu",),
    make_shards: MakeShards | None = None,
    open_teacher: OpenTeacher | None = None,
) -> None:
    """Write ``train_mined.automodel.json``, its unrolled form, ``val.json``, ``corpus/``, ``summary.json`` and
    ``scores.png``.

    A negative is never a positive of its question (or of an equal question of another document), never the same text
    with another id, and never a passage of a held-out document. ``too_few_negatives`` decides what happens to a
    question with fewer than ``hard_negatives_to_mine``; ``summary.json`` counts them. Vectors are in a
    memory-mapped file, and are searched in blocks. A training set that has negatives already keeps them.

    Args:
        training_set: the questions and the corpus.
        encoder: the base model.
        settings: the number of negatives and the margin.
        folder: where the files are written.
        progress: called while texts are embedded and searched.
        devices: torch devices of the search; with several each has its own process.
        make_shards: embeds the passages on several workers.
        open_teacher: the teacher of ``hard_neg_filter: teacher``, over the passages that it is given.

    Raises:
        PrepError: a question names a passage that the corpus lacks or that is held out, none is left, or a
            process of the search failed.
        RetrieverFileError: a file of the training set cannot be read.
    """
    source = read_retriever_file(training_set.path / "train.json")
    if any(example.negatives for example in source.examples):
        _keep_mined_negatives(source, training_set, settings, folder)
        return
    pool = _read_pool(training_set)
    positives = [_positive_rows(example, pool) for example in source.examples]
    excluded = _excluded(source.examples, positives, pool)
    with (
        stored_vectors(encoder, [each.question for each in source.examples], "query", folder, progress) as q,
        stored_vectors(encoder, pool.texts, "passage", folder, progress, make_shards) as p,
    ):
        positive_scores = _positive_scores(q, p, positives)
        tops = ceilings(np.array([scores.min() for scores in positive_scores]), settings)
        wanted = settings.hard_negatives_to_mine
        if settings.hard_neg_filter == "teacher":
            assert open_teacher is not None
            ranking = _ranking(source.examples, pool, open_teacher, progress)
            excluded = with_suspects(excluded, positives, ranking, settings)
            tops = np.full(len(tops), np.inf)
        search = partial(search_file, devices=devices, progress=progress)
        last = min(settings.mine_to or settings.mine_from + wanted, len(pool.ids))
        found = search(q, vector_file(folder, "passage"), last, ceilings=tops, excluded=excluded)
        found = window(found, settings)
        above_margin: dict[int, list[tuple[int, float]]] = {}
        short = np.flatnonzero((found.ids < 0).any(axis=1))
        if settings.too_few_negatives == "fill" and len(short):
            # The lowest scores above the ceiling are the highest below it for the negated question vector.
            below = np.nextafter(-tops[short], -np.inf)
            hidden = [excluded[row] for row in short]
            passages = vector_file(folder, "passage")
            opposite = search(-q[short], passages, wanted, ceilings=below, excluded=hidden)
            above_margin = {int(row): _listed(opposite, at, negate=True) for at, row in enumerate(short)}
    mined = Mined(source.examples, pool, positives, positive_scores, found, above_margin)
    _write(mined, training_set, settings, folder)


def ceilings(lowest_positive: NDArray[np.float64], settings: MiningSettings) -> NDArray[np.float64]:
    """The highest score a negative may have, given the lowest positive's: float64 [n] of float64 [n]."""
    if settings.hard_neg_margin_type == "perc":
        return lowest_positive - (1 - settings.hard_neg_margin) * np.abs(lowest_positive)
    return lowest_positive - settings.hard_neg_margin


def with_suspects(
    excluded: Sequence[Sequence[int]],
    positives: Sequence[Sequence[int]],
    ranking: Ranking,
    settings: MiningSettings,
) -> list[list[int]]:
    """``excluded`` and, for each question, the passages that a teacher scores above the margin below the lowest of the
    positives; one that it does not list has the score 0.

    Args:
        positives: rows of the pool.
    """
    suspected: list[list[int]] = []
    for left_out, own, passages, scores in zip(
        excluded, positives, ranking.passages.tolist(), ranking.scores.tolist(), strict=True
    ):
        listed = {row: score for row, score in zip(passages, scores, strict=True) if row >= 0}
        lowest = min(listed.get(row, 0.0) for row in own)
        top = float(ceilings(np.array([lowest]), settings)[0])
        above = {row for row, score in listed.items() if score > top}
        suspected.append(sorted({*left_out, *above}))
    return suspected


def _ranking(
    examples: Sequence[RetrieverExample], pool: Pool, open_teacher: OpenTeacher, progress: Progress
) -> Ranking:
    texts = [each.question for each in examples]
    with open_teacher(pool.texts) as teacher:
        return teacher.rank(texts, [-1] * len(texts), min(TEACHER_DEPTH, len(pool.ids)), progress)


def window(found: TopK, settings: MiningSettings) -> TopK:
    """The negatives of the ranks ``mine_from`` to ``mine_to``: as many as are mined, drawn at random, in the order of
    their ranks; without ``mine_to`` the first from ``mine_from`` on."""
    wanted, first = settings.hard_negatives_to_mine, settings.mine_from
    ids, scores = found.ids[:, first:], found.scores[:, first:]
    if settings.mine_to is None or ids.shape[1] <= wanted:
        return TopK(ids[:, :wanted], scores[:, :wanted], found.above)
    # Of a question with fewer passages in the window, those that there are come first.
    keys = np.random.default_rng(0).random(ids.shape) + 2 * (ids < 0)
    drawn = np.sort(np.argsort(keys, axis=1)[:, :wanted], axis=1)
    return TopK(np.take_along_axis(ids, drawn, 1), np.take_along_axis(scores, drawn, 1), found.above)


# ---- reading -------------------------------------------------------------------------------------------------


def _read_pool(training_set: TrainingSet) -> Pool:
    held_out = training_set.held_out_passages()
    pool = Pool([], [], {}, defaultdict(list))
    for name, text in read_corpus(training_set.path / "corpus"):
        if name in held_out:
            continue
        row = pool.row_of[name] = len(pool.ids)
        pool.ids.append(name)
        pool.texts.append(text)
        pool.same_text[_text_key(text)].append(row)
    return pool


def _positive_rows(example: RetrieverExample, pool: Pool) -> list[int]:
    names = [positive.passage_id for positive in example.positives]
    if not names:
        raise PrepError(f"train.json: question {example.question_id} has no positive passage")
    for name in names:
        if name not in pool.row_of:
            raise PrepError(
                f"train.json: question {example.question_id} names passage {name}, which is not in corpus/ or "
                "belongs to a held-out document: make the training set again"
            )
    return [pool.row_of[name] for name in names]


def _excluded(
    examples: Sequence[RetrieverExample], positives: Sequence[Sequence[int]], pool: Pool
) -> list[list[int]]:
    """For each question the rows that answer it: its positives, those of equal questions of other documents, and
    every row with the text of one of them."""
    answers: defaultdict[str, set[int]] = defaultdict(set)
    for example, rows in zip(examples, positives, strict=True):
        for row in rows:
            answers[question_key(example.question)].update(pool.same_text[_text_key(pool.texts[row])])
    return [sorted(answers[question_key(example.question)]) for example in examples]


def _text_key(text: str) -> str:
    return " ".join(text.split())


def _positive_scores(
    questions: Any, passages: Any, positives: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    counts = [len(rows) for rows in positives]
    rows = np.repeat(np.arange(len(positives)), counts)
    columns = np.fromiter((row for rows in positives for row in rows), dtype=np.int64)
    scores = pair_scores(questions, passages, np.stack([rows, columns], axis=1))
    return np.split(scores, np.cumsum(counts)[:-1])


# ---- writing -------------------------------------------------------------------------------------------------


def _write(mined: Mined, training_set: TrainingSet, settings: MiningSettings, folder: Path) -> None:
    short = mined.short()
    examples = list(_mined_examples(mined))
    if settings.too_few_negatives == "drop":
        examples = [example for example, few in zip(examples, short, strict=True) if not few]
    if not examples:
        raise PrepError(
            f"every question has fewer than prep.hard_negatives_to_mine = {settings.hard_negatives_to_mine} "
            "negatives: lower it, lower prep.hard_neg_margin, or set prep.too_few_negatives=keep"
        )
    texts = dict(zip(mined.pool.ids, mined.pool.texts, strict=True))
    margin = describe_margin(mined.found.above, short, len(texts), settings)
    _write_files(examples, texts, training_set, settings.decisive(), margin, folder)


def _keep_mined_negatives(
    source: RetrieverFile, training_set: TrainingSet, settings: MiningSettings, folder: Path
) -> None:
    """Write the negatives that the training set has already, without those of held-out documents."""
    pool = _read_pool(training_set)
    for example in source.examples:
        _positive_rows(example, pool)
    examples = [
        replace(
            example, negatives=tuple(each for each in example.negatives if each.passage_id in pool.row_of)
        )
        for example in source.examples
    ]
    fewer = [len(each.negatives) < settings.hard_negatives_to_mine for each in examples]
    dropped = sum(len(each.negatives) for each in source.examples) - sum(len(e.negatives) for e in examples)
    figures = {"questions_with_fewer_negatives": sum(fewer), "negatives_of_held_out_documents": dropped}
    texts = dict(zip(pool.ids, pool.texts, strict=True))
    _write_files(examples, texts, training_set, dict(source.mining or {"given": True}), figures, folder)


def _write_files(
    examples: list[RetrieverExample],
    texts: dict[str, str],
    training_set: TrainingSet,
    arguments: dict[str, Any],
    figures: dict[str, Any],
    folder: Path,
) -> None:
    write_retriever_file(folder / "train_mined.automodel.json", examples, arguments)
    write_retriever_file(folder / "train_mined.automodel_unrolled.json", unroll(examples), arguments)
    _copy_files(
        training_set.path, folder, ["val.json", "corpus/train.parquet", "corpus/merlin_metadata.json"]
    )
    summary = {**describe_mining(examples, texts), **figures}
    write_json(folder / "summary.json", summary, final_newline=True)
    if summary["histogram"]:
        draw_scores(summary["histogram"], folder / "scores.png")


def _mined_examples(mined: Mined) -> Iterator[RetrieverExample]:
    wanted = mined.found.ids.shape[1]
    for row, example in enumerate(mined.examples):
        negatives = [*_listed(mined.found, row), *mined.above_margin.get(row, [])][:wanted]
        positives = zip(mined.positives[row], mined.positive_scores[row], strict=True)
        yield RetrieverExample(
            example.question_id,
            example.question,
            tuple(_reference(mined.pool, passage, score) for passage, score in positives),
            tuple(_reference(mined.pool, passage, score) for passage, score in negatives),
        )


def _listed(found: TopK, question: int, *, negate: bool = False) -> list[tuple[int, float]]:
    """(row of the pool, score) of the passages found for one question."""
    pairs = zip(found.ids[question].tolist(), found.scores[question].tolist(), strict=True)
    return [(row, -score if negate else score) for row, score in pairs if row >= 0]


def _reference(pool: Pool, row: int, score: float) -> PassageRef:
    return PassageRef(pool.ids[row], round(float(score), DECIMALS))


def _copy_files(source: Path, folder: Path, names: Sequence[str]) -> None:
    """The same files in this version."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        copy_file(source / name, target)
