"""The training set and the exam, written in the formats that the field's other tools read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from assets_pkg.prep.divide import SplitName
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.filtering import Question, Rejections
from assets_pkg.prep.settings import SplitSettings
from assets_pkg.prep.split import FixedExam, SplitData, split_pairs
from storage.artifacts import QAPairs, TrainingSet
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from storage.formats.retriever_json import PassageRef, RetrieverExample, write_corpus, write_retriever_file
from storage.progress import Progress, no_progress


def write_training_set(
    qa: QAPairs,
    settings: SplitSettings,
    folder: Path,
    progress: Progress = no_progress,
    exam: FixedExam | None = None,
) -> None:
    """Write ``train.json``, ``val.json``, ``corpus/`` (every chunk of every split), ``splits.json``,
    ``rejected.jsonl`` (every pair that was left out) and ``summary.json``.

    ``splits.json``: ``documents`` (ids by split) and ``held_out_passages`` (ids that training may not see).

    Args:
        exam: an exam that stays as it is; its documents stay out, all others are for training and validation.

    Raises:
        PrepError: no training question is left, or there are too few documents to split.
    """
    data = split_pairs(qa, settings, progress, exam)
    if not data.questions["train"]:
        raise PrepError(
            "no training question is left: every one is asked in a held-out document too. "
            "Add documents, or raise prep.train_ratio"
        )
    write_corpus(folder / "corpus", data.passages.items())
    write_retriever_file(folder / "train.json", _examples(data.questions["train"]))
    write_retriever_file(folder / "val.json", _examples(data.questions["val"]))
    (folder / "rejected.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in data.rejected.rows))
    held_out = data.held_out_passages()
    _write_json(folder / "splits.json", {"documents": _by_split(data), "held_out_passages": held_out})
    summary = {
        **_figures(data, ("train", "val")),
        "held_out_passages": len(held_out),
        **_rejections(data.rejected),
        **_kept_together(data, settings),
        **({"rejected_examples": shown} if (shown := data.rejected.shown()) else {}),
    }
    _write_json(folder / "summary.json", summary)


def told_of_rejections(made: TrainingSet) -> str:
    """A line on the pairs that were left out, with the first place to look at."""
    summary = made.summary()
    first = summary["rejected_examples"][0]
    return (
        f"training_set: {summary['rejected']} pairs left out, such as {first['where']}: {first['reason']}; "
        f"all in {made.path / 'rejected.jsonl'}"
    )


def write_eval_set(
    qa: QAPairs,
    settings: SplitSettings,
    folder: Path,
    progress: Progress = no_progress,
    *,
    use_group_id: bool = False,
) -> None:
    """Write ``eval_beir/`` (the test questions, over every chunk of every split) and ``summary.json``.

    Documents are ``d<N>`` in corpus order, or have their content ids, and as ``group_id`` too, with
    ``use_group_id``; query ids are those of the whole set, so that they never meet those of training.

    Raises:
        PrepError: there is no test question, or there are too few documents to split.
    """
    data = split_pairs(qa, settings, progress)
    questions = data.questions["test"]
    if not questions:
        raise PrepError("no question for the evaluation: prep.test_ratio must be above 0")
    names = {
        passage: passage if use_group_id else f"d{number}" for number, passage in enumerate(data.passages)
    }
    write_beir(
        folder / "eval_beir",
        (
            BeirDocument(names[passage], text, group_id=passage if use_group_id else None)
            for passage, text in data.passages.items()
        ),
        (BeirQuery(each.question_id, each.pair.question, _query_metadata(each)) for each in questions),
        {each.question_id: {names[passage]: 1 for passage in each.positives} for each in questions},
    )
    judged = sum(len(question.positives) for question in questions)
    types = Counter(question.pair.query_type for question in questions)
    summary = {
        **_figures(data, ("test",)),
        "positives_per_question": round(judged / len(questions), 4),
        "query_types": dict(sorted(types.items())),
        **_kept_together(data, settings),
    }
    _write_json(folder / "summary.json", summary)


def _examples(questions: Iterable[Question]) -> Iterator[RetrieverExample]:
    for each in questions:
        positives = tuple(PassageRef(passage) for passage in each.positives)
        yield RetrieverExample(each.question_id, each.pair.question, positives)


def _query_metadata(question: Question) -> dict[str, Any]:
    pair = question.pair
    return {
        "query_type": pair.query_type,
        "reasoning_type": pair.reasoning_type,
        "hop_count": pair.hop_count,
        "question_complexity": pair.question_complexity,
        "quality_score": question.quality_score,
        "answer": pair.answer,
        "hop_contexts": [hop.model_dump(mode="json") for hop in pair.hop_contexts],
        "file_name": list(question.file_name),
        "segment_ids": pair.segment_ids,
    }


def _by_split(data: SplitData) -> dict[str, list[str]]:
    return {
        name: sorted(document for document, split in data.documents.items() if split == name)
        for name in data.questions
    }


def _figures(data: SplitData, splits: Iterable[SplitName]) -> dict[str, Any]:
    documents = Counter(data.documents.values())
    figures: dict[str, Any] = {}
    for name in splits:
        figures[f"{name}_questions"] = len(data.questions[name])
        figures[f"{name}_documents"] = documents[name]
    return {**figures, "passages": len(data.passages)}


def _kept_together(data: SplitData, settings: SplitSettings) -> dict[str, Any]:
    """How the split was made, where not at random."""
    if settings.split_strategy == "random":
        return {}
    return {
        "split_strategy": settings.split_strategy,
        "groups": len(data.groups),
        "documents_in_groups": sum(size for size in data.groups if size > 1),
        "largest_group": data.groups[0],
    }


def _rejections(rejected: Rejections) -> dict[str, int]:
    by_reason = {f"rejected_{reason}": count for reason, count in sorted(rejected.counts().items())}
    return {"rejected": len(rejected.rows), **by_reason}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
