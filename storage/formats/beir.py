"""The BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

Layout of https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset: one JSON object per line with
``_id``, ``title`` and ``text`` (queries without title), and judgements as tab-separated ``query-id``,
``corpus-id`` and ``score`` under a header line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from storage.digests import digest_file, digest_json
from storage.errors import RetuneError
from storage.formats.json_values import decode, explain, read_lines, read_objects

FILES = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
"""A BEIR folder with one split."""

QRELS_HEADER = "query-id\tcorpus-id\tscore"
SHOWN_CHARACTERS = 60

Qrels = dict[str, dict[str, int]]
"""Relevance (0: not relevant) by query id and document id."""

MISSING_ANSWERS = 0.01
"""The share of answers that need not be in the corpus."""


class BeirError(RetuneError, ValueError):
    """A BEIR folder that cannot be read; the message names file, line and field."""


_SCORE = re.compile(r"-?[0-9]{1,9}")


def beir_fingerprint(folder: Path) -> str:
    """Digest of the three :data:`FILES`; of the path where one is missing."""
    files = [folder / name for name in FILES]
    return digest_json([digest_file(file) if file.is_file() else str(file) for file in files])


@dataclass(frozen=True)
class BeirDocument:
    """One retrieval unit."""

    doc_id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group_id: str | None = None

    @property
    def joined(self) -> str:
        """What is embedded: title, space, text, stripped, as BEIR and MTEB do."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class BeirQuery:
    query_id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write_beir(
    folder: Path,
    documents: Iterable[BeirDocument],
    queries: Iterable[BeirQuery],
    qrels: Mapping[str, Mapping[str, int]],
    split: str = "test",
) -> None:
    """Write a BEIR folder, replacing existing files: the same bytes as the recipe's converter (``convert.py`` of NVIDIA
    NeMo's retrieval-sdg plugin 0.2)."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(
        folder / "corpus.jsonl",
        (_document_row(each) for each in documents),
    )
    _write_lines(
        folder / "queries.jsonl",
        ({"_id": each.query_id, "metadata": dict(each.metadata), "text": each.text} for each in queries),
    )
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(QRELS_HEADER + "\n")
        for query_id, judged in qrels.items():
            stream.writelines(f"{query_id}\t{doc_id}\t{score}\n" for doc_id, score in judged.items())


def read_documents(folder: Path) -> Iterator[BeirDocument]:
    """The documents in file order, one in memory at a time.

    Raises:
        BeirError: no such file, a line that is not JSON, or a field that is missing or not text.
    """
    for where, row in _read_lines(folder / "corpus.jsonl"):
        found = _validated(_DocumentRow, row, where)
        yield BeirDocument(found.id, found.text, found.title, found.metadata, cast(Any, found.group_id))


def read_queries(folder: Path) -> Iterator[BeirQuery]:
    """The queries in file order; of all splits, so some may have no judgements.

    Raises:
        BeirError: as :func:`read_documents`.
    """
    for where, row in _read_lines(folder / "queries.jsonl"):
        found = _validated(_Row, row, where)
        yield BeirQuery(found.id, found.text, found.metadata)


def read_qrels(folder: Path, split: str = "test") -> Qrels:
    """The judgements of one split.

    Raises:
        BeirError: no such file, not UTF-8, a line without two ids and a whole number of at most nine digits, or two
            lines that judge the same differently.
    """
    path = folder / "qrels" / f"{split}.tsv"
    qrels: Qrels = {}
    for number, (where, line) in enumerate(_open_lines(path), start=1):
        cells = decode(line, where, BeirError).strip().split("\t")
        if number == 1 and cells[0] == "query-id":
            continue
        if len(cells) != 3 or not all(cells) or not _SCORE.fullmatch(cells[2]):
            raise BeirError(f"{where}: must be query-id, corpus-id and a whole number, tabs between")
        score = int(cells[2])
        before = qrels.setdefault(cells[0], {}).setdefault(cells[1], score)
        if before != score:
            raise BeirError(
                f"{where}: query {cells[0]} and document {cells[1]} are judged {score}, and {before} further up"
            )
    return qrels


def best_judged(judged: Mapping[str, int]) -> str:
    """The document that is judged best, the first by id among equals; ``judged`` has at least one."""
    return max(sorted(judged), key=judged.__getitem__)


def count_missing_answers(folder: Path, qrels: Qrels, documents: Container[str]) -> int:
    """How many answers are not among the corpus's ``documents``.

    Published folders have a few (ArguAna has one). They stay in the judgements, where they count as never found, as in
    published figures.

    Raises:
        BeirError: more than 1% of the answers are missing.
    """
    answers = [
        (query, name) for query, judged in qrels.items() for name, score in judged.items() if score > 0
    ]
    missing = [(query, name) for query, name in answers if name not in documents]
    if len(missing) > MISSING_ANSWERS * len(answers):
        query, name = missing[0]
        raise BeirError(
            f"{folder}/qrels: {len(missing)} of {len(answers)} answers are not in corpus.jsonl, the first is {name} of "
            f"query {query}"
        )
    return len(missing)


def _document_row(document: BeirDocument) -> dict[str, Any]:
    group = {} if document.group_id is None else {"group_id": document.group_id}
    text = {"text": document.text, "title": document.title}
    return {"_id": document.doc_id, "metadata": dict(document.metadata), **text, **group}


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="ascii", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")


def _read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    _require(path)
    return read_objects(path, BeirError)


def _open_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    _require(path)
    return read_lines(path, BeirError)


def _require(path: Path) -> None:
    if not path.is_file():
        raise BeirError(
            f"{path}: no such file: a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv"
        )


# ---- rows ----------------------------------------------------------------------------------------------------


def _or_nothing(value: Any) -> Any:
    return value or {}


def _as_text(value: Any) -> Any:
    if not value:
        return ""
    return str(value) if isinstance(value, int | float) else value


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    id: Annotated[str, Field(alias="_id")]
    text: str
    metadata: Annotated[dict[str, Any], BeforeValidator(_or_nothing)] = {}


class _DocumentRow(_Row):
    title: Annotated[str, BeforeValidator(_as_text)] = ""
    group_id: str | int | None = None


_R = TypeVar("_R", bound=_Row)


def _validated(model: type[_R], row: Mapping[str, Any], where: str) -> _R:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        raise BeirError(f"{where}: {explain(error)}, is {_short(row.get(str(name)))}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
