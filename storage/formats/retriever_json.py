"""The recipe's retriever format: ``train.json`` and the mined files, over a ``corpus/`` folder.

What NeMo Automodel's retrieval loader reads: ``{"corpus": {"path": "./corpus/"}, "data": [{question_id,
question, corpus_id, pos_doc: [{id}], neg_doc: [{id}]}]}``, where the path is relative to the file and the
folder holds ``train.parquet`` (``id``, ``text``) and ``merlin_metadata.json``. Mined files have ``mining`` at
the top level and a ``score`` with every id. Its guide ("Retrieval Dataset") also has a list of corpora, bare ids in
place of objects, and questions without ``neg_doc``; these are read, and not written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from storage.errors import RetuneError
from storage.formats.json_values import explain, read_strict
from storage.formats.parquet_rows import read_parquet_rows

CORPUS_ID = "retune"
CORPUS_FOLDER = "corpus"
_ROWS_PER_GROUP = 10_000


class RetrieverFileError(RetuneError, ValueError):
    """A retriever file or corpus folder that cannot be read; the message names file, question and field."""


@dataclass(frozen=True)
class PassageRef:
    """A passage named by a question; ``score`` is its similarity, once mined."""

    passage_id: str
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"id": self.passage_id} if self.score is None else {"id": self.passage_id, "score": self.score}


@dataclass(frozen=True)
class RetrieverExample:
    """A question with the passages that answer it and those mined as hard negatives, hardest first."""

    question_id: str
    question: str
    positives: tuple[PassageRef, ...]
    negatives: tuple[PassageRef, ...] = ()


@dataclass(frozen=True)
class RetrieverFile:
    """A whole file; ``corpora`` are the folders that its ids are looked up in."""

    corpora: tuple[Path, ...]
    examples: list[RetrieverExample]
    mining: Mapping[str, Any] | None = None

    def passages(self) -> Iterator[tuple[str, str]]:
        """(id, text) of every passage of the corpora, as :func:`read_corpus` gives them."""
        for corpus in self.corpora:
            yield from read_corpus(corpus)


def write_retriever_file(
    path: Path, examples: Iterable[RetrieverExample], mining: Mapping[str, Any] | None = None
) -> None:
    """Write one question per line, replacing an existing file. ``mining`` are the arguments of a mined file."""
    head: dict[str, Any] = {"corpus": {"path": f"./{CORPUS_FOLDER}/"}}
    if mining is not None:
        head["mining"] = {"args": dict(mining)}
    with path.open("wb") as stream:
        stream.write(orjson.dumps(head)[:-1] + b',"data":[')
        for number, example in enumerate(examples):
            stream.write((b",\n" if number else b"\n") + orjson.dumps(_to_json(example)))
        stream.write(b"\n]}\n")


def read_retriever_file(path: Path) -> RetrieverFile:
    """Read ``train.json``, ``val.json`` or a mined file.

    Raises:
        RetrieverFileError: it is missing, not JSON, or a question lacks a field.
    """
    if not path.is_file():
        raise RetrieverFileError(f"{path}: no such file")
    if path.suffix == ".jsonl":
        raise RetrieverFileError(
            f"{path}: a training file is one JSON object with corpus and data; rows that hold their passages are "
            f"pairs: give them as sdg_input_path={path}"
        )
    content = read_strict(path, RetrieverFileError)
    try:
        head = _Head.model_validate(content)
    except ValidationError as error:
        raise RetrieverFileError(
            f"{path}: not a retriever file (corpus.path and data): {explain(error)}"
        ) from error
    rows = [_from_json(row, path, number) for number, row in enumerate(head.data)]
    corpora = tuple(path.parent / each.path for each in head.corpus)
    return RetrieverFile(corpora, rows, head.mining.args if head.mining else None)


def unroll(examples: Iterable[RetrieverExample]) -> Iterator[RetrieverExample]:
    """One record per positive: a question with several becomes ``q7_0``, ``q7_1``... sharing the negatives."""
    for example in examples:
        if len(example.positives) == 1:
            yield example
            continue
        for number, positive in enumerate(example.positives):
            yield replace(example, question_id=f"{example.question_id}_{number}", positives=(positive,))


def write_corpus(folder: Path, passages: Iterable[tuple[str, str]]) -> int:
    """Write ``train.parquet`` and ``merlin_metadata.json`` from (id, text) pairs; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    count = 0
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        for rows in _groups(passages):
            count += len(rows)
            columns = {"id": [name for name, _ in rows], "text": [text for _, text in rows]}
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
    metadata = {"corpus_id": CORPUS_ID, "class": "TextQADataset"}
    (folder / "merlin_metadata.json").write_bytes(orjson.dumps(metadata))
    return count


def corpus_files(folder: Path) -> list[Path]:
    """The Parquet files of a corpus folder: ``train.parquet``, or all there are, as the ``datasets`` library
    takes them."""
    ours = folder / "train.parquet"
    return [ours] if ours.exists() else sorted(folder.glob("*.parquet")) or [ours]


def read_corpus(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every passage in file order, one record batch in memory at a time.

    Raises:
        RetrieverFileError: there is no Parquet file with these columns, or a value is not text.
    """
    for path in corpus_files(folder):
        for number, row in enumerate(read_parquet_rows(path, RetrieverFileError, ["id", "text"]), start=1):
            for name in ("id", "text"):
                if not isinstance(row[name], str):
                    kind = "null" if row[name] is None else type(row[name]).__name__
                    raise RetrieverFileError(f"{path}: row {number}: {name}: must be text, is {kind}")
            yield row["id"], row["text"]


def _groups(passages: Iterable[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    rows: list[tuple[str, str]] = []
    for row in passages:
        rows.append(row)
        if len(rows) == _ROWS_PER_GROUP:
            yield rows
            rows = []
    if rows:
        yield rows


def _to_json(example: RetrieverExample) -> dict[str, Any]:
    return {
        "question_id": example.question_id,
        "question": example.question,
        "corpus_id": CORPUS_ID,
        "pos_doc": [each.to_json() for each in example.positives],
        "neg_doc": [each.to_json() for each in example.negatives],
    }


def _from_json(row: Any, path: Path, number: int) -> RetrieverExample:
    try:
        found = _Question.model_validate(row)
    except ValidationError as error:
        raise RetrieverFileError(f"{path}: question number {number}: {explain(error)}") from error
    return RetrieverExample(
        question_id=cast(str, found.question_id),
        question=found.question,
        positives=tuple(PassageRef(str(each.id), each.score) for each in found.pos_doc),
        negatives=tuple(PassageRef(str(each.id), each.score) for each in found.neg_doc),
    )


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Corpus(_Strict):
    path: str


class _Mining(_Strict):
    args: dict[str, Any] | None = None


def _as_list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


class _Head(_Strict):
    corpus: Annotated[list[_Corpus], BeforeValidator(_as_list), Field(min_length=1)]
    data: list[Any]
    mining: _Mining | None = None


class _Ref(_Strict):
    id: str | int
    score: int | float | None = None


def _as_ref(value: Any) -> Any:
    return {"id": value} if isinstance(value, str | int) else value


_Refs = list[Annotated[_Ref, BeforeValidator(_as_ref)]]


class _Question(_Strict):
    question_id: str | int
    question: str
    pos_doc: _Refs
    neg_doc: _Refs = []
