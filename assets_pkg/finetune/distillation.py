"""The distillation set: questions without labels, with a teacher's scores of candidate passages for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.data import ValidationData, read_train_data, read_validation_data
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.unlabelled import unlabelled_questions
from assets_pkg.retrieval.exact_search import exact_search
from assets_pkg.retrieval.metrics import score_run
from assets_pkg.retrieval.teachers import NO_CANDIDATE, Teacher, open_teacher
from resources.encoders.base import Encoder
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet, TrainingSet
from storage.digests import digest_json
from storage.embedding_cache import EmbeddingCache
from storage.formats.retriever_json import read_retriever_file
from storage.progress import Note, Progress, no_note, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "distillation.parquet"
MADE_FROM = b"retune.made_from"
METRIC, CUTOFF = "NDCG@10", 10
FEWEST_CANDIDATES = 2
GROUPING_DEPTH = 16
"""Candidates by which questions are found to be about the same."""


@dataclass(frozen=True)
class Distillation:
    """``questions`` and, for each, the passage that it is from (``sources``, its id), and ``candidates`` (ids, best
    first) with ``scores`` from 0 to 1; ``passages``: the text of every candidate, by id."""

    questions: list[str]
    sources: list[str]
    candidates: list[list[str]]
    scores: list[list[float]]
    passages: dict[str, str]


def make_distillation(
    mined: MinedTrainSet,
    training: TrainingSet,
    base: Checkpoint,
    settings: FinetuneSettings,
    encoder: Encoder,
    accelerator: Accelerator,
    cache: EmbeddingCache,
    folder: Path,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> None:
    """Write ``distillation.parquet`` into ``folder``; what an interrupted run with the same inputs wrote is kept.

    Questions and candidates are of the passages that training may use. A teacher that ranks the validation questions
    worse than the base does (mean nDCG@10) teaches nothing: then the file holds no rows, and ``note`` says so.

    Args:
        training: the set that ``mined`` was made from; it names the held-out passages.
        encoder: of ``base``.
        cache: keeps vectors and the scores of a cross-encoder, so that an interrupted run repeats none.

    Raises:
        RetrieverFileError: a file of the training set is missing or malformed.
        TeacherError: the teacher cannot be used.
    """
    assert settings.teacher is not None
    path = folder / FILE
    stamp = _made_from(mined, base, settings)
    if path.exists() and _stamp_of(path) == stamp:
        return
    name = settings.teacher
    validation = read_validation_data(mined.path / "val.json")
    if validation is not None:
        with open_teacher(name, list(validation.pool.values()), encoder, accelerator, cache) as teacher:
            problem = worse_than_base(teacher, settings, validation, encoder)
        if problem is not None:
            note(problem)
            _write(path, stamp, [], [], [], [])
            return
    data = read_train_data(mined.unrolled, 0)
    held_out = training.held_out_passages()
    source = read_retriever_file(mined.unrolled)
    passages = {each: text for each, text in source.passages() if each not in held_out}
    questions = unlabelled_questions(data.examples, passages, settings.teacher_questions, settings.seed)
    ids = list(passages)
    row_of = {each: row for row, each in enumerate(ids)}
    depth = min(settings.teacher_candidates, len(ids))
    with open_teacher(name, list(passages.values()), encoder, accelerator, cache) as teacher:
        texts, own = [each.text for each in questions], [row_of[each.source] for each in questions]
        found = teacher.rank(texts, own, depth, progress)
    kept = [row for row, listed in enumerate(found.passages) if (listed >= 0).sum() >= FEWEST_CANDIDATES]
    lists = [[ids[each] for each in found.passages[row] if each >= 0] for row in kept]
    scores = [found.scores[row][found.passages[row] >= 0].tolist() for row in kept]
    chosen = [questions[row] for row in kept]
    _write(path, stamp, [each.text for each in chosen], [each.source for each in chosen], lists, scores)
    note(f"{name} teaches {len(kept):,} questions with up to {depth} passages each")


def worse_than_base(
    teacher: Teacher, settings: FinetuneSettings, validation: ValidationData, encoder: Encoder
) -> str | None:
    """Why the teacher is not used: it ranks the validation questions worse than the base; None if it does not."""
    questions = list(validation.questions.values())
    names = list(validation.pool)
    depth = min(max(CUTOFF, settings.teacher_candidates), len(names))
    found = teacher.rank(questions, [NO_CANDIDATE] * len(questions), depth)
    own = exact_search(
        encoder.embed(questions, "query"),
        encoder.embed(list(validation.pool.values()), "passage"),
        min(CUTOFF, len(names)),
    )
    teacher_ndcg = _ndcg(validation, names, found.passages)
    base_ndcg = _ndcg(validation, names, own.ids)
    if teacher_ndcg >= base_ndcg:
        return None
    return (
        f"finetune.teacher = {settings.teacher} is not used: it ranks the validation questions worse than the base "
        f"({METRIC} {teacher_ndcg:.3f} and {base_ndcg:.3f})"
    )


def _ndcg(validation: ValidationData, names: Sequence[str], ranked: NDArray[np.int64]) -> float:
    """Mean nDCG@10 of passages in this order: indices of ``names``, int64 [n, k], -1 where there are fewer."""
    listed: list[list[int]] = ranked.tolist()
    run = {
        question: {names[row]: 1.0 / rank for rank, row in enumerate(rows, start=1) if row >= 0}
        for question, rows in zip(validation.questions, listed, strict=True)
    }
    relevant = {question: dict.fromkeys(ids, 1) for question, ids in validation.positives.items()}
    return score_run(run, relevant, [CUTOFF]).means()[METRIC]


def read_distillation(folder: Path, mined: MinedTrainSet) -> Distillation | None:
    """What :func:`make_distillation` wrote into ``folder``; None if the teacher teaches nothing.

    Raises:
        TrainingDataError: there is no such file.
    """
    import pyarrow.parquet as pq

    path = folder / FILE
    if not path.exists():
        raise TrainingDataError(
            f"{path}: missing, but finetune.teacher is set: run the fine-tune stage again"
        )
    columns: dict[str, Any] = pq.read_table(path).to_pydict()
    if not columns["question"]:
        return None
    wanted = {name for listed in columns["candidates"] for name in listed}
    texts = {name: text for name, text in read_retriever_file(mined.unrolled).passages() if name in wanted}
    return Distillation(
        columns["question"],
        columns["source"],
        columns["candidates"],
        columns["scores"],
        dict(sorted(texts.items())),
    )


def teaching(settings: FinetuneSettings, taught: Distillation | None) -> dict[str, Any]:
    """What ``summary.json`` says of the teacher."""
    if settings.teacher is None:
        return {}
    return {"teacher": settings.teacher, "questions_taught": len(taught.questions) if taught else 0}


def topical_groups(candidates: Sequence[Sequence[str]], size: int, seed: int) -> list[list[int]]:
    """Questions in groups of ``size`` that share as many candidates as possible, so that a batch of them holds passages
    that the teacher ranks for each; a rest of fewer is left out, unless there is no other group.

    Args:
        candidates: ids of every question's passages, best first.
    """
    random = np.random.default_rng(seed)
    leading = [each[:GROUPING_DEPTH] for each in candidates]
    asked_by: dict[str, list[int]] = {}
    for question, passages in enumerate(leading):
        for passage in passages:
            asked_by.setdefault(passage, []).append(question)
    free = np.ones(len(candidates), dtype=bool)
    groups: list[list[int]] = []
    for first in random.permutation(len(candidates)).tolist():
        if not free[first]:
            continue
        near = np.concatenate([asked_by[passage] for passage in leading[first]])
        shared = np.bincount(near, minlength=len(candidates)).astype(np.float64)
        shared[first] = np.inf
        shared[~free] = -1
        group = np.argsort(-shared, kind="stable")[:size]
        group = group[free[group]]
        free[group] = False
        groups.append(group.tolist())
    return [each for each in groups if len(each) == size] or groups


def _made_from(mined: MinedTrainSet, base: Checkpoint, settings: FinetuneSettings) -> str:
    names = ("teacher", "teacher_questions", "teacher_candidates", "seed")
    values = [getattr(settings, name) for name in names]
    return digest_json([mined.version, base.version, *values])


def _stamp_of(path: Path) -> str:
    import pyarrow.parquet as pq

    return (pq.read_schema(path).metadata or {}).get(MADE_FROM, b"").decode()


def _write(
    path: Path,
    stamp: str,
    questions: list[str],
    sources: list[str],
    candidates: list[list[str]],
    scores: list[list[float]],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("question", pa.string()),
            ("source", pa.string()),
            ("candidates", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
        ],
        metadata={MADE_FROM: stamp.encode()},
    )
    columns = {"question": questions, "source": sources, "candidates": candidates, "scores": scores}
    unfinished = path.with_suffix(".unfinished")
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), unfinished)
    unfinished.replace(path)
