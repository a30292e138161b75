"""The recipe's SDG record: one source document (or bundle), its chunks, QA pairs and their evaluations.

Format of NVIDIA NeMo's retrieval-sdg plugin 0.2 and of the dataset Retrieval-Synthetic-NVDocs-v1: one JSON
object per line. Field names are NeMo's; Retune adds ``generator``, which names what made the pairs, and ``origin``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from storage.errors import RetuneError
from storage.files import write_json
from storage.formats.json_values import explain, parse_strict, read_lines

QueryType = Literal["multi_hop", "structural", "contextual"]
ReasoningType = Literal["factual", "relational", "inferential", "temporal", "procedural", "causal", "visual"]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Score = Annotated[float, Field(ge=0, le=10)]
GivenScore = Annotated[int | float, Field(ge=0, le=10)]
"""Whole where the file has a whole number, so that what is made of it has it too."""


class RecordError(RetuneError, ValueError):
    """A record file that cannot be read; the message names file, line and field."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class Chunk(_Record):
    """A passage of the source; ``chunk_id`` counts from 1 through the whole record."""

    text: str
    chunk_id: Whole
    start: Whole = 0
    end: Whole = 0
    sentence_count: Whole = 0
    word_count: Whole = 0
    doc_chunk_index: Whole | None = None
    doc_id: str | None = None
    doc_path: str | None = None


class HopContext(_Record):
    hop_number: Whole
    segment_ids: list[Whole]
    summary: str = ""


class QAPair(_Record):
    """A question and the ``chunk_id``s of the passages that answer it; ``origin`` is its position in the user's
    own file, if it came from one."""

    question: str
    answer: str = ""
    question_complexity: Whole = 1
    query_type: str = "structural"
    reasoning_type: str = "factual"
    segment_ids: list[Whole]
    hop_count: Whole = 1
    hop_contexts: list[HopContext] = []
    origin: str | None = None


class Judgement(_Record):
    score: Score
    justification: str = ""


class OverallJudgement(_Record):
    score: GivenScore
    assessment: str = ""


class QAEvaluation(_Record):
    """Scores of one pair, 1 to 10. Offline pairs have only ``overall``, from their round-trip rank."""

    relevance: Judgement | None = None
    accuracy: Judgement | None = None
    context_support: Judgement | None = None
    clarity: Judgement | None = None
    overall: OverallJudgement
    improvements: str = ""


class QAEvaluations(_Record):
    evaluations: list[QAEvaluation]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class SourceRecord(_Record):
    """One line of an SDG file. ``qa_evaluations.evaluations`` run parallel to ``deduplicated_qa_pairs``."""

    file_name: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    source_id: str
    text: str = ""
    chunks: list[Chunk]
    deduplicated_qa_pairs: list[QAPair]
    qa_evaluations: QAEvaluations
    bundle_id: str | None = None
    bundle_members: list[str] | None = None
    is_multi_doc: bool = False
    generator: str | None = None


def write_records(path: Path, records: Iterable[SourceRecord]) -> int:
    """Write records as JSON lines; returns how many."""
    count = 0
    with path.open("wb") as stream:
        for record in records:
            stream.write(dump_record(record))
            count += 1
    return count


def dump_record(record: SourceRecord) -> bytes:
    """A record as one line."""
    return orjson.dumps(record.model_dump(mode="json", exclude_none=True)) + b"\n"


def read_records(path: Path) -> Iterator[SourceRecord]:
    """Read JSON lines, one record in memory at a time.

    Raises:
        RecordError: a line is not JSON or not a record.
    """
    for where, line in read_lines(path, RecordError):
        yield parse_record(line, where)


def parse_record(line: bytes, where: str) -> SourceRecord:
    """One record from its JSON text; ``where`` is the file and line for error messages."""
    try:
        return SourceRecord.model_validate(parse_strict(line, where, RecordError))
    except ValidationError as error:
        raise RecordError(f"{where}: {explain(error)}") from error


def write_generation_result(folder: Path, records: Path) -> None:
    """Write the recipe's ``generation_result.json``, which names the file of records and says that it is whole."""
    result = {"schema_version": 1, "dataset_name": "synthetic_qa", "output_path": records.name}
    write_json(folder / "generation_result.json", result, ensure_ascii=True)
