"""The training set and the eval set as files: split from the pairs, or a training file of the user's.

An eval set of the user's is imported by :mod:`~assets_pkg.prep.eval_set`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.prep import SplitSettings
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.eval_set import answer_keys
from assets_pkg.prep.filtering import Question, Rejections, question_key
from assets_pkg.prep.split import FixedEvalSet, SplitData, SplitName, split_pairs
from storage.artifacts import QAPairs, TrainingSet
from storage.digests import digest_file, digest_json
from storage.files import write_json, write_json_lines
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from storage.formats.retriever_json import (
    PassageRef,
    RetrieverExample,
    RetrieverFile,
    corpus_files,
    read_corpus,
    read_retriever_file,
    write_corpus,
    write_retriever_file,
)
from storage.progress import Progress, no_progress

VALIDATION = "val.json"


# ---- split from the pairs ----------------------------------------------------------------------------------------


def write_training_set(
    qa: QAPairs,
    settings: SplitSettings,
    folder: Path,
    progress: Progress = no_progress,
    eval_set: FixedEvalSet | None = None,
) -> None:
    """Write ``train.json``, ``val.json``, ``corpus/`` (every chunk of every split), ``splits.json``,
    ``rejected.jsonl`` (every pair that was left out) and ``summary.json``.

    ``splits.json``: ``documents`` (ids by split) and ``held_out_passages`` (ids that training must not use).

    Args:
        qa: the pairs.
        settings: quality filter, ratios and strategy.
        folder: where the files are written.
        progress: called for each record read.
        eval_set: a fixed eval set; its documents are left out, all others are for training and validation.

    Raises:
        PrepError: no training question is left, or there are too few documents to split.
    """
    data = split_pairs(qa, settings, progress, eval_set)
    if not data.questions["train"]:
        raise PrepError(
            "no training question is left: every one is asked in a held-out document too. "
            "Add documents, or raise prep.train_ratio"
        )
    write_corpus(folder / "corpus", data.passages.items())
    write_retriever_file(folder / "train.json", _examples(data.questions["train"]))
    write_retriever_file(folder / VALIDATION, _examples(data.questions["val"]))
    write_json_lines(folder / "rejected.jsonl", data.rejected.rows)
    held_out = data.held_out_passages()
    write_json(
        folder / "splits.json",
        {"documents": _by_split(data), "held_out_passages": held_out},
        final_newline=True,
    )
    summary = {
        **_figures(data, ("train", "val")),
        "held_out_passages": len(held_out),
        **_rejections(data.rejected),
        **_group_figures(data, settings),
        **({"rejected_examples": shown} if (shown := data.rejected.shown()) else {}),
    }
    write_json(folder / "summary.json", summary, final_newline=True)


def describe_rejections(made: TrainingSet) -> str:
    """One line about the pairs that were left out, with the location of the first."""
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
    origin: Mapping[str, str] | None = None,
) -> None:
    """Write ``eval_beir/`` (the test questions, over every chunk of every split) and ``summary.json``, with ``origin``:
    who wrote the questions.

    Documents are named ``d<N>`` in corpus order; with ``use_group_id`` by their content id, which is their
    ``group_id`` too. Queries are ``q<N>`` from 0. The recipe's converter writes the same bytes for the same pairs,
    except that it repeats a judgement where two segments of a question have the same text.

    Raises:
        PrepError: there is no test question, or there are too few documents to split.
    """
    data = split_pairs(qa, settings, progress)
    questions = {f"q{number}": each for number, each in enumerate(data.questions["test"])}
    if not questions:
        raise PrepError("no question for the evaluation: prep.test_ratio must be above 0")
    # The converter keeps the scores of all pairs in one column, which is of one type.
    scores = (each.quality_score for split in data.questions.values() for each in split)
    number = int if all(isinstance(score, int) for score in scores) else float
    names = {
        passage: passage if use_group_id else f"d{number}" for number, passage in enumerate(data.passages)
    }
    write_beir(
        folder / "eval_beir",
        (
            BeirDocument(names[passage], text, group_id=passage if use_group_id else None)
            for passage, text in data.passages.items()
        ),
        (
            BeirQuery(name, each.pair.question, _query_metadata(each, number))
            for name, each in questions.items()
        ),
        {name: {names[passage]: 1 for passage in each.positives} for name, each in questions.items()},
    )
    judged = sum(len(question.positives) for question in questions.values())
    types = Counter(question.pair.query_type for question in questions.values())
    summary = {
        **_figures(data, ("test",)),
        "positives_per_question": round(judged / len(questions), 4),
        "query_types": dict(sorted(types.items())),
        **_group_figures(data, settings),
        **(origin or {}),
    }
    write_json(folder / "summary.json", summary, final_newline=True)


def _examples(questions: Iterable[Question]) -> Iterator[RetrieverExample]:
    for each in questions:
        positives = tuple(PassageRef(passage) for passage in each.positives)
        yield RetrieverExample(each.question_id, each.pair.question, positives)


def _query_metadata(question: Question, number: type[int] | type[float]) -> dict[str, Any]:
    pair = question.pair
    return {
        "query_type": pair.query_type,
        "reasoning_type": pair.reasoning_type,
        "hop_count": pair.hop_count,
        "question_complexity": pair.question_complexity,
        "quality_score": number(question.quality_score),
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


def _group_figures(data: SplitData, settings: SplitSettings) -> dict[str, Any]:
    """The strategy and the sizes of its groups; nothing for a random split."""
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


# ---- a training file of the user's -------------------------------------------------------------------------------


def training_file_fingerprint(path: Path) -> str:
    """Digest of the file, of ``val.json`` beside it and of its corpus; of the path where one is missing.

    Raises:
        RetrieverFileError: the file is not a training file.
    """
    corpora = read_retriever_file(path).corpora if path.is_file() else (path.parent,)
    files = [path, path.parent / VALIDATION, *(file for corpus in corpora for file in corpus_files(corpus))]
    return digest_json([digest_file(file) if file.is_file() else str(file) for file in files])


def import_training_file(path: Path, eval_set: FixedEvalSet, folder: Path) -> None:
    """Check the training file ``path`` and write it as a training set: ``train.json`` (with its negatives, if it
    has any), ``val.json`` (the one beside it, or empty), ``corpus/``, ``splits.json``, ``rejected.jsonl``
    (empty) and ``summary.json``.

    Passages that answer a question of the eval set are held out, except those that the file trains on (which the
    leakage check reports).

    Raises:
        RetrieverFileError: a file is missing or malformed; it names file, question and field.
        PrepError: a question has no text or no positive, an id is repeated, or a passage is not in the corpus.
    """
    train = read_retriever_file(path)
    beside = path.parent / VALIDATION
    val = read_retriever_file(beside) if beside.is_file() and beside != path else None
    if not train.examples:
        raise PrepError(f"{path}: data is empty: no training question")
    texts = _read_texts(train)
    _check_examples(path, train.examples, texts)
    validation = val.examples if val else []
    _check_examples(beside, validation, texts)
    write_corpus(folder / "corpus", texts.items())
    write_retriever_file(folder / "train.json", train.examples, train.mining)
    write_retriever_file(folder / VALIDATION, validation)
    trained = {each.passage_id for example in train.examples for each in example.positives}
    keys = answer_keys(eval_set)
    held_out = sorted(
        name for name, text in texts.items() if question_key(text) in keys and name not in trained
    )
    write_json(folder / "splits.json", {"documents": {}, "held_out_passages": held_out}, final_newline=True)
    (folder / "rejected.jsonl").write_bytes(b"")
    summary = {
        "train_questions": len(train.examples),
        "val_questions": len(validation),
        "questions_with_negatives": sum(bool(example.negatives) for example in train.examples),
        "passages": len(texts),
        "held_out_passages": len(held_out),
        "source": str(path),
    }
    write_json(folder / "summary.json", summary, final_newline=True)


def _read_texts(source: RetrieverFile) -> dict[str, str]:
    texts: dict[str, str] = {}
    for corpus in source.corpora:
        for number, (name, text) in enumerate(read_corpus(corpus), start=1):
            if texts.setdefault(name, text) != text:
                others = " (of this corpus or another one)" if len(source.corpora) > 1 else ""
                raise PrepError(
                    f"{corpus}: row {number}: id {name!r} comes twice with different texts{others}"
                )
    return texts


def _check_examples(path: Path, examples: list[RetrieverExample], texts: dict[str, str]) -> None:
    for example in examples:
        where = f"{path}: question {example.question_id}"
        if not isinstance(example.question, str) or not example.question.strip():
            raise PrepError(f"{where}: 'question' must be text and not empty")
        if not example.positives:
            raise PrepError(f"{where}: 'pos_doc' is empty")
        for field, named in (("pos_doc", example.positives), ("neg_doc", example.negatives)):
            if missing := [each.passage_id for each in named if each.passage_id not in texts]:
                raise PrepError(f"{where}: {field}: passage {missing[0]} is not in the corpus")
    names = Counter(example.question_id for example in examples)
    if twice := [name for name, count in names.items() if count > 1]:
        raise PrepError(f"{path}: question_id {twice[0]!r} comes {names[twice[0]]} times")
