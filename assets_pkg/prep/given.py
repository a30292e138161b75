"""Starting from a training file that is there already: the recipe's ``train.json``, or a mined one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.exam import text_keys
from assets_pkg.prep.filtering import question_key
from assets_pkg.prep.split import FixedExam
from storage.digests import digest_file, digest_json
from storage.formats.retriever_json import (
    RetrieverExample,
    RetrieverFile,
    corpus_files,
    read_corpus,
    read_retriever_file,
    write_corpus,
    write_retriever_file,
)

VALIDATION = "val.json"


def training_file_fingerprint(path: Path) -> str:
    """Digest of the file, of ``val.json`` beside it and of its corpus; of the names of what is missing.

    Raises:
        RetrieverFileError: the file is not a training file.
    """
    corpus = read_retriever_file(path).corpus if path.is_file() else path.parent
    files = [path, path.parent / VALIDATION, *corpus_files(corpus)]
    return digest_json([digest_file(file) if file.is_file() else str(file) for file in files])


def take_training_file(path: Path, exam: FixedExam, folder: Path) -> None:
    """Check the training file ``path`` and write it as a training set: ``train.json`` (with its negatives, if it
    has some), ``val.json`` (the one beside it, or empty), ``corpus/``, ``splits.json``, ``rejected.jsonl``
    (empty) and ``summary.json``.

    Passages that answer a question of the exam are held out, unless the file trains on them (which the leak
    check reports).

    Raises:
        RetrieverFileError: a file is missing or malformed; it names file, question and field.
        PrepError: a question has no text or no positive, an id comes twice, or a passage is not in the corpus.
    """
    train = read_retriever_file(path)
    beside = path.parent / VALIDATION
    val = read_retriever_file(beside) if beside.is_file() and beside != path else None
    if not train.examples:
        raise PrepError(f"{path}: data is empty: no training question")
    texts = _corpus(train)
    _check(path, train.examples, texts)
    validation = val.examples if val else []
    _check(beside, validation, texts)
    write_corpus(folder / "corpus", texts.items())
    write_retriever_file(folder / "train.json", train.examples, train.mining)
    write_retriever_file(folder / VALIDATION, validation)
    trained = {each.passage_id for example in train.examples for each in example.positives}
    keys = text_keys(exam)
    held_out = sorted(
        name for name, text in texts.items() if question_key(text) in keys and name not in trained
    )
    _write_json(folder / "splits.json", {"documents": {}, "held_out_passages": held_out})
    (folder / "rejected.jsonl").write_bytes(b"")
    summary = {
        "train_questions": len(train.examples),
        "val_questions": len(validation),
        "questions_with_negatives": sum(bool(example.negatives) for example in train.examples),
        "passages": len(texts),
        "held_out_passages": len(held_out),
        "source": str(path),
    }
    _write_json(folder / "summary.json", summary)


def _corpus(source: RetrieverFile) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, (name, text) in enumerate(read_corpus(source.corpus), start=1):
        if texts.setdefault(name, text) != text:
            raise PrepError(f"{source.corpus}: row {number}: id {name!r} comes twice with different texts")
    return texts


def _check(path: Path, examples: list[RetrieverExample], texts: dict[str, str]) -> None:
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


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
