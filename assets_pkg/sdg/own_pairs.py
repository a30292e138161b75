"""Pairs of the user's own: the recipe's records, or simple rows of questions and the passages that answer them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from resources.chat_model.structured import clean_surrogates
from storage.digests import digest_text
from storage.files import write_json
from storage.formats.json_values import explain, parse_json, read_lines, read_whole
from storage.formats.parquet_rows import read_parquet_rows
from storage.formats.qa_records import (
    Chunk,
    OverallJudgement,
    QAEvaluation,
    QAEvaluations,
    QAPair,
    RecordError,
    SourceRecord,
    parse_record,
    write_records,
)
from storage.progress import Progress, no_progress

RESULT_FILE = "generation_result.json"
FORMATS = (".json", ".jsonl", ".parquet")
GENERATOR = "own pairs"
UNSCORED = 10.0


def load_own_pairs(path: Path, folder: Path, progress: Progress = no_progress) -> None:
    """Read the pairs at ``path`` and write ``qa_records.jsonl``, ``summary.json`` and
    ``generation_result.json`` into ``folder``.

    ``path`` is a JSON, JSONL or Parquet file, a folder of one of these formats, or a ``generation_result.json``.
    Rows are all records of the recipe, or all simple: ``question``, ``positive`` passage(s) and optionally
    ``negatives``, ``answer``, ``score`` (0 to 10), or the same under the names of other tools. Simple rows that share
    a passage become one record, so that no split separates them; negatives become passages of the record that no
    pair refers to; a row without a score has the best one.

    Raises:
        RecordError: no such file, mixed formats, or a bad row; it names file, row and field.
    """
    files = find_files(path)
    rows = ((where, row) for file in files for where, row in _rows(file))
    first = next(rows, None)
    if first is None:
        raise RecordError(f"{path}: has no rows")
    rows = chain([first], rows)
    if "deduplicated_qa_pairs" in first[1]:
        records = (_recipe_record(where, row) for where, row in rows)
    else:
        records = _records_of(rows)
    counts = {"records": 0, "pairs": 0}

    def counted() -> Iterator[SourceRecord]:
        for record in records:
            counts["records"] += 1
            counts["pairs"] += len(record.deduplicated_qa_pairs)
            progress(counts["records"], counts["records"], "records", pairs=counts["pairs"])
            yield record

    write_records(folder / "qa_records.jsonl", counted())
    summary = {"generator": GENERATOR, "source": str(path), "files": [str(file) for file in files], **counts}
    write_json(folder / "summary.json", summary, ensure_ascii=True)
    result = {"schema_version": 1, "dataset_name": path.stem, "output_path": "qa_records.jsonl"}
    write_json(folder / RESULT_FILE, result, ensure_ascii=True)


# ---- files -------------------------------------------------------------------------------------------------


def find_files(path: Path) -> list[Path]:
    """The data files of ``path``, all of one format."""
    if path.name == RESULT_FILE:
        return find_files(_output_of(path))
    if path.is_dir():
        return _files_of(path)
    if not path.is_file():
        raise RecordError(f"sdg_input_path = {path}: no such file or folder")
    if path.suffix.lower() not in FORMATS:
        raise RecordError(f"sdg_input_path = {path}: must be one of {', '.join(FORMATS)}")
    return [path]


def _output_of(result: Path) -> Path:
    try:
        return result.parent / json.loads(result.read_text("utf-8"))["output_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(f"{result}: must be a JSON object with output_path ({error})") from error


def _files_of(folder: Path) -> list[Path]:
    if (folder / RESULT_FILE).is_file():
        return find_files(folder / RESULT_FILE)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FORMATS)
    if not files:
        raise RecordError(f"sdg_input_path = {folder}: holds no {', '.join(FORMATS)} file")
    if len({file.suffix.lower() for file in files}) > 1:
        names = ", ".join(file.name for file in files)
        raise RecordError(
            f"sdg_input_path = {folder}: mixes formats, name one file or keep one format: {names}"
        )
    return files


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a data file with their location."""
    read = {".parquet": _parquet_rows, ".jsonl": _line_rows, ".json": _list_rows}[file.suffix.lower()]
    for where, row in read(file):
        if not isinstance(row, dict):
            raise RecordError(f"{where}: must be an object")
        yield where, row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(read_parquet_rows(file, RecordError), start=1):
        yield f"{file}: row {number}", row


def _line_rows(file: Path) -> Iterator[tuple[str, Any]]:
    for where, line in read_lines(file, RecordError):
        yield where, _parse(line, where)


def _list_rows(file: Path) -> Iterator[tuple[str, Any]]:
    data = read_whole(file, RecordError)
    if _is_lines(data):
        yield from _line_rows(file)
        return
    rows = _parse(data, str(file))
    if not isinstance(rows, list):
        fields = f" with {', '.join(rows)}" if isinstance(rows, dict) else ""
        raise RecordError(f"{file}: must be a list of rows, is {_KINDS.get(type(rows), 'a value')}{fields}")
    for number, row in enumerate(rows, start=1):
        yield f"{file}: row {number}", row


_KINDS = {dict: "an object", str: "a text", int: "a number", float: "a number"}


def _is_lines(data: bytes) -> bool:
    """Whether a file holds one object a line, as ``datasets.Dataset.to_json`` writes into a ``.json`` file."""
    first, second = (line.strip() for line in (*data.split(b"\n", 2), b"", b"")[:2])
    return first.startswith(b"{") and first.endswith(b"}") and second.startswith(b"{")


def _parse(data: bytes, where: str) -> Any:
    return clean_surrogates(parse_json(data, where, RecordError, surrogates=True))


def _without_nulls(value: Any) -> Any:
    """The value without nulls, which Parquet has for the fields that a row lacks."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _recipe_record(where: str, row: dict[str, Any]) -> SourceRecord:
    # Bytes become nulls, which the record refuses by the field's name; dates are only in fields that are not read.
    data = json.dumps(
        _without_nulls(row), default=lambda value: None if isinstance(value, bytes) else str(value)
    )
    record = parse_record(data.encode(), where)
    for number, pair in enumerate(record.deduplicated_qa_pairs, start=1):
        pair.origin = f"{_location(where)}, pair {number}"
    return record


def _location(where: str) -> str:
    """``where`` without folders, so that moving the file changes nothing."""
    return Path(where).name


# ---- simple rows -------------------------------------------------------------------------------------------


def _texts(value: Any) -> Any:
    """One passage or a list of them, each a text or an object with one."""
    values = value if isinstance(value, list) else [value]
    return [_titled(item) if isinstance(item, dict) else item for item in values]


def _titled(passage: dict[str, Any]) -> Any:
    """Title and text as one, as BEIR joins them."""
    title, text = passage.get("title"), passage.get("text")
    return f"{title} {text}".strip() if isinstance(title, str) and isinstance(text, str) else text


_Passage = Annotated[str, Field(pattern=r"\S")]
_PassageList = Annotated[list[_Passage], BeforeValidator(_texts)]


_QUESTION = ("question", "query", "anchor", "user_input")
_POSITIVE = (
    "positive",
    "positives",
    "positive_passage",
    "positive_passages",
    "passage",
    "passages",
    "pos",
    "reference_contexts",
    "pos_doc",
)
_NEGATIVE = ("negatives", "negative", "negative_passages", "hard_negatives", "neg", "neg_doc")
_NUMBERED = re.compile(r"negative_[0-9]+")


class SimpleRow(BaseModel):
    """A question with the passages that answer it; ``origin`` is its location in the file.

    The fields have the names of sentence-transformers, Tevatron, FlagEmbedding, ragas and NeMo Automodel too.
    """

    question: Annotated[str, Field(pattern=r"\S", validation_alias=AliasChoices(*_QUESTION))]
    positives: Annotated[
        _PassageList,
        Field(
            min_length=1,
            validation_alias=AliasChoices(*_POSITIVE),
        ),
    ]
    negatives: Annotated[
        _PassageList,
        Field(validation_alias=AliasChoices(*_NEGATIVE)),
    ] = []
    answer: Annotated[str, Field(validation_alias=AliasChoices("answer", "reference"))] = ""
    score: Annotated[float, Field(ge=0, le=10)] = UNSCORED
    origin: str


@dataclass
class _Group:
    """Rows that share passages, and the passages in order of appearance."""

    rows: list[SimpleRow] = field(default_factory=list)

    def record(self, positives: set[str]) -> SourceRecord:
        own = dict.fromkeys(text for row in self.rows for text in row.positives)
        spare = dict.fromkeys(text for row in self.rows for text in row.negatives if text not in positives)
        texts = [*own, *spare]
        number = {text: position for position, text in enumerate(texts, start=1)}
        source_id = f"own_{digest_text(texts[0])}"
        return SourceRecord(
            file_name=[source_id],
            source_id=source_id,
            text="\n\n".join(texts),
            chunks=[Chunk(text=text, chunk_id=number[text], word_count=len(text.split())) for text in texts],
            deduplicated_qa_pairs=[_pair(row, number) for row in self.rows],
            qa_evaluations=QAEvaluations(evaluations=[_evaluation(row) for row in self.rows]),
            generator=GENERATOR,
        )


def _pair(row: SimpleRow, number: dict[str, int]) -> QAPair:
    segments = sorted({number[text] for text in row.positives})
    return QAPair(question=row.question.strip(), answer=row.answer, segment_ids=segments, origin=row.origin)


def _evaluation(row: SimpleRow) -> QAEvaluation:
    scored = "score" in row.model_fields_set
    return QAEvaluation(
        overall=OverallJudgement(score=row.score, assessment="as given" if scored else "no score given")
    )


def _records_of(rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[SourceRecord]:
    simple = [_simple(where, row) for where, row in rows]
    positives = {text for row in simple for text in row.positives}
    for group in _group(simple):
        yield group.record(positives)


def _simple(where: str, row: dict[str, Any]) -> SimpleRow:
    if "deduplicated_qa_pairs" in row:
        raise RecordError(f"{where}: a record of the recipe among simple rows: keep them in separate files")
    try:
        return SimpleRow.model_validate({**_numbered(_without_nulls(row)), "origin": _location(where)})
    except ValidationError as error:
        missing = {detail["loc"][0] for detail in error.errors() if detail["type"] == "missing"}
        names = {_QUESTION[0]: _QUESTION, _POSITIVE[0]: _POSITIVE}
        wanted = [f"{' or '.join(names[name])}" for name in names if name in missing]
        hint = f" (looked for {'; for '.join(wanted)}; the row has {', '.join(row)})" if wanted else ""
        raise RecordError(f"{where}: {explain(error)}{hint}") from error


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """The row with ``negative_1``, ``negative_2``... as one list, as sentence-transformers writes mined ones."""
    numbered = [value for name, value in row.items() if _NUMBERED.fullmatch(name)]
    return row if not numbered or set(_NEGATIVE) & set(row) else {**row, "negatives": numbered}


def _group(rows: list[SimpleRow]) -> list[_Group]:
    """Rows that share passages, directly or through other rows, in order of first appearance."""
    from scipy.cluster.hierarchy import DisjointSet

    passages = DisjointSet(text for row in rows for text in row.positives)
    for row in rows:
        for text in row.positives[1:]:
            passages.merge(row.positives[0], text)
    groups: dict[str, _Group] = {}
    for row in rows:
        groups.setdefault(passages[row.positives[0]], _Group()).rows.append(row)
    return list(groups.values())
