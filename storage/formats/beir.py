"""The BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

Layout of https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset: one JSON object per line with
``_id``, ``title`` and ``text`` (queries without title), and judgements as tab-separated ``query-id``,
``corpus-id`` and ``score`` under a header line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from storage.errors import RetuneError

QRELS_HEADER = "query-id\tcorpus-id\tscore"

Qrels = dict[str, dict[str, int]]
"""Relevance (0: not relevant) by query id and document id."""


class BeirError(RetuneError, ValueError):
    """A BEIR folder that cannot be read; the message names file, line and field."""


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
    """Write a BEIR folder, replacing existing files."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(
        folder / "corpus.jsonl",
        (_document_row(each) for each in documents),
    )
    _write_lines(
        folder / "queries.jsonl",
        ({"_id": each.query_id, "text": each.text, "metadata": dict(each.metadata)} for each in queries),
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
        title = row.get("title") or ""
        group = row.get("group_id")
        yield BeirDocument(
            _text(row, "_id", where), _text(row, "text", where), str(title), row.get("metadata") or {}, group
        )


def read_queries(folder: Path) -> Iterator[BeirQuery]:
    """The queries in file order; of all splits, so some may have no judgements.

    Raises:
        BeirError: as :func:`read_documents`.
    """
    for where, row in _read_lines(folder / "queries.jsonl"):
        yield BeirQuery(_text(row, "_id", where), _text(row, "text", where), row.get("metadata") or {})


def read_qrels(folder: Path, split: str = "test") -> Qrels:
    """The judgements of one split.

    Raises:
        BeirError: no such file, no header, or a line without two ids and a whole number.
    """
    path = folder / "qrels" / f"{split}.tsv"
    qrels: Qrels = {}
    for number, line in enumerate(_open_lines(path), start=1):
        cells = line.decode("utf-8").strip().split("\t")
        if number == 1 and cells[0] == "query-id":
            continue
        if len(cells) != 3 or not cells[2].lstrip("-").isdigit():
            raise BeirError(f"{path}:{number}: must be query-id, corpus-id and a whole number, tabs between")
        qrels.setdefault(cells[0], {})[cells[1]] = int(cells[2])
    return qrels


def _document_row(document: BeirDocument) -> dict[str, Any]:
    row = {"_id": document.doc_id, "title": document.title, "text": document.text}
    group = {} if document.group_id is None else {"group_id": document.group_id}
    return {**row, "metadata": dict(document.metadata), **group}


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BeirError(f"{where}: {name}: must be text, is {value!r}")
    return value


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as stream:
        for row in rows:
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def _read_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_open_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BeirError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BeirError(f"{where}: must be a JSON object")
        yield where, row


def _open_lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise BeirError(
            f"{path}: no such file: a BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv"
        )
    with path.open("rb") as stream:
        yield from (line for line in stream if line.strip())
