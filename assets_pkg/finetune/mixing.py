"""General pairs among those of the documents: a model that goes on seeing other subjects forgets less of them
(rehearsal; Robins 1995, https://doi.org/10.1080/09540099550039318)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from assets_pkg.config.sections.finetune import MixSettings
from assets_pkg.finetune.data import Example, TrainData
from assets_pkg.finetune.errors import TrainingDataError
from storage.formats.beir import best_judged, read_documents, read_qrels, read_queries

PREFIX = "mix:"
"""Of the ids of general questions and passages, so that they are no ids of the documents'."""


def with_general_pairs(data: TrainData, mix: MixSettings, seed: int) -> TrainData:
    """``data`` and as many general rows as make ``mix.share`` of all, drawn with ``seed``; fewer where the folder has
    no more. They have no mined negatives: the other passages of their batch are.

    Raises:
        BeirError: a file of the folder cannot be read.
        TrainingDataError: it has no judged question, or an answer that its corpus lacks.
    """
    folder = Path(mix.path).expanduser()
    split = "train" if (folder / "qrels" / "train.tsv").exists() else "test"
    rows = sorted(_rows(folder, split), key=lambda row: row.question_id)
    if not rows:
        raise TrainingDataError(f"finetune.mix: {folder} has no question with an answer in qrels/{split}.tsv")
    wanted = round(len(data.examples) * mix.share / (1 - mix.share))
    drawn = random.Random(seed).sample(rows, min(wanted, len(rows)))
    texts = _texts(folder, {row.positive for row in drawn})
    known = {row.question: data.known_positives.get(row.question, frozenset()) for row in drawn}
    for row in drawn:
        known[row.question] |= {row.positive}
    return replace(
        data,
        examples=[*data.examples, *drawn],
        passages={**data.passages, **texts},
        known_positives={**data.known_positives, **known},
    )


def _rows(folder: Path, split: str) -> Iterator[Example]:
    """Each judged question with its best answer."""
    qrels = read_qrels(folder, split)
    for query in read_queries(folder):
        judged = {name: score for name, score in qrels.get(query.query_id, {}).items() if score > 0}
        if judged:
            yield Example(f"{PREFIX}{query.query_id}", query.text, f"{PREFIX}{best_judged(judged)}", ())


def _texts(folder: Path, wanted: set[str]) -> dict[str, str]:
    found = {f"{PREFIX}{each.doc_id}": each.joined for each in read_documents(folder)}
    if missing := sorted(wanted - set(found)):
        raise TrainingDataError(f"finetune.mix: {folder} lacks the answer {missing[0].removeprefix(PREFIX)}")
    return {name: found[name] for name in sorted(wanted)}
