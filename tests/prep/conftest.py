"""Small sets of pairs written by hand, and an encoder whose scores are chosen by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.sections.prep import MiningSettings, SplitSettings
from storage.artifacts import EvalSet, QAPairs, TrainingSet
from storage.formats.qa_records import (
    Chunk,
    OverallJudgement,
    QAEvaluation,
    QAEvaluations,
    QAPair,
    SourceRecord,
    write_records,
)

MakePairs = Callable[[Sequence[SourceRecord]], QAPairs]


def record(
    name: str, chunks: Sequence[str], pairs: Sequence[tuple[str, Sequence[int]]], scores: Sequence[float] = ()
) -> SourceRecord:
    """One document; ``pairs`` are (question, chunk ids from 1)."""
    judged = [QAEvaluation(overall=OverallJudgement(score=score)) for score in scores or [9.0] * len(pairs)]
    return SourceRecord(
        file_name=[name],
        source_id=name,
        chunks=[Chunk(text=text, chunk_id=number) for number, text in enumerate(chunks, start=1)],
        deduplicated_qa_pairs=[QAPair(question=question, segment_ids=list(ids)) for question, ids in pairs],
        qa_evaluations=QAEvaluations(evaluations=judged),
    )


def simple_records(count: int) -> list[SourceRecord]:
    """Documents with two passages and a question about each."""
    return [
        record(
            f"doc{number:02}",
            [f"passage {number} one", f"passage {number} two"],
            [(f"question {number} one", [1]), (f"question {number} two", [2])],
        )
        for number in range(count)
    ]


def split_settings(**changes) -> SplitSettings:
    values = {
        "quality_threshold": 7.0,
        "train_ratio": 0.6,
        "val_ratio": 0.2,
        "test_ratio": 0.2,
        "conversion_seed": 42,
        "max_pos_docs": 5,
        "split_strategy": "random",
        "groups_json": None,
        "near_duplicate_threshold": 0.8,
    }
    return SplitSettings(**{**values, **changes})


def mining_settings(**changes) -> MiningSettings:
    values = {
        "hard_negatives_to_mine": 5,
        "hard_neg_margin_type": "perc",
        "hard_neg_margin": 0.95,
        "mining_batch_size": 64,
        "mining_processes": None,
        "too_few_negatives": "keep",
        "hard_neg_filter": "margin",
        "hard_neg_teacher": "lexical",
        "mine_from": 0,
        "mine_to": None,
    }
    return MiningSettings(**{**values, **changes})


@pytest.fixture
def make_pairs(tmp_path: Path) -> MakePairs:
    def make(records: Sequence[SourceRecord]) -> QAPairs:
        folder = tmp_path / f"pairs{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        write_records(folder / "qa_records.jsonl", records)
        return QAPairs(folder, "synthetic_qa", "v")

    return make


def training_set_at(folder: Path) -> TrainingSet:
    return TrainingSet(folder, "training_set", "v")


def eval_set_at(folder: Path) -> EvalSet:
    return EvalSet(folder, "eval_set", "v")


def read_json(path: Path):
    return json.loads(path.read_text("utf-8"))


class TableEncoder:
    """Vectors looked up by text."""

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors = vectors
        self.dimensions = len(next(iter(vectors.values())))

    def identity(self, role):
        return "table"

    def embed(self, texts, role, progress=None):
        return np.stack([self.vectors[text] for text in texts]).astype(np.float32)
