"""What comes again in many documents: lines of menus and disclaimers, and whole documents under another name.

Only documents with a layout are looked at (pages, word processing, presentations): a line of plain text, code or a
table that comes again is meant so.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any
from zlib import crc32

from assets_pkg.corpus.metadata import as_json
from assets_pkg.corpus.readers.registry import kind_by_name
from storage.artifacts import Corpus, Document
from storage.digests import digest_text

KINDS = frozenset({"html", "pdf", "docx", "pptx", "opendocument", "rtf", "epub"})
LEAST_DOCUMENTS = 5
LEAST_SHARE = 0.3
"""Of the documents of a type that have a line: one of a menu, not of the text."""

LEAST_CHARACTERS = 4
BUCKETS = 1 << 22
"""Lines are counted by a hash first, in 16 MB; those that may come often enough then by themselves."""

ALSO_IN = "also_in"
"""The metadata field with the names of a document's copies."""

_STRUCTURE = ("#", "|", "```", "~~~")


@dataclass
class Repetition:
    """``lines``: those left out, by the documents' type, with the number of documents that have them; ``copies``: the
    names of each document's copies; ``merged``: those names."""

    lines: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    copies: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    characters: int = 0

    def __post_init__(self) -> None:
        self.merged = {name for names in self.copies.values() for name in names}

    def without(self, document: Document, pages: Sequence[int]) -> tuple[Document, Sequence[int]]:
        """The document without such lines, with the names of its copies, and the offsets of its pages in that text."""
        if names := self.copies.get(document.doc_id):
            fields = {**json.loads(document.metadata), ALSO_IN: names}
            document = replace(document, metadata=as_json(fields))
        left_out = self.lines.get(kind_by_name(document.doc_id))
        if not left_out:
            return document, pages
        lines = document.text.splitlines(keepends=True)
        kept = [line for line in lines if line.strip() not in left_out]
        self.characters += len(document.text) - sum(map(len, kept))
        return replace(document, text="".join(kept)), _moved(pages, lines, left_out)

    def rows(self) -> Iterator[dict[str, str | int]]:
        """The lines, the most frequent first."""
        for kind, lines in sorted(self.lines.items()):
            for line, count in lines.most_common():
                yield {"type": kind, "documents": count, "line": line}


def find_repetition(corpus: Corpus) -> Repetition:
    """Read the corpus twice; nothing is read if it has no document of :data:`KINDS`."""
    if not any(kind_by_name(doc_id) in KINDS for doc_id in _names(corpus)):
        return Repetition()
    import numpy as np

    counts = np.zeros(BUCKETS, np.uint32)
    documents: Counter[str] = Counter()
    first: dict[str, str] = {}
    copies: defaultdict[str, list[str]] = defaultdict(list)
    for kind, document in _with_layout(corpus):
        digest = digest_text(f"{document.text}\0{document.metadata}")
        if digest in first:
            copies[first[digest]].append(document.doc_id)
            continue
        first[digest] = document.doc_id
        documents[kind] += 1
        counts[[_bucket(kind, line) for line in _lines(document)]] += 1
    least = {kind: max(LEAST_DOCUMENTS, math.ceil(LEAST_SHARE * count)) for kind, count in documents.items()}
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    merged = {name for names in copies.values() for name in names}
    for kind, document in _with_layout(corpus):
        if document.doc_id not in merged:
            often = (line for line in _lines(document) if counts[_bucket(kind, line)] >= least[kind])
            found[kind].update(often)
    lines = {
        kind: Counter({line: count for line, count in counter.items() if count >= least[kind]})
        for kind, counter in found.items()
    }
    return Repetition({kind: counter for kind, counter in lines.items() if counter}, dict(copies))


def _with_layout(corpus: Corpus) -> Iterator[tuple[str, Document]]:
    for document in corpus.documents():
        kind = kind_by_name(document.doc_id)
        if kind in KINDS:
            yield kind, document


def _names(corpus: Corpus) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(corpus.path / corpus.parquet) as file:
        for batch in file.iter_batches(columns=["doc_id"]):
            rows: Any = batch
            yield from rows.column("doc_id").to_pylist()


def _lines(document: Document) -> set[str]:
    lines = {line.strip() for line in document.text.splitlines()}
    return {line for line in lines if len(line) >= LEAST_CHARACTERS and not line.startswith(_STRUCTURE)}


def _bucket(kind: str, line: str) -> int:
    return crc32(f"{kind} {line}".encode()) % BUCKETS


def _moved(pages: Sequence[int], lines: Sequence[str], left_out: Counter[str]) -> list[int]:
    """The offsets after lines are left out."""
    starts = [0, *accumulate(map(len, lines))]
    lost = [0, *accumulate(len(line) if line.strip() in left_out else 0 for line in lines)]
    return [page - lost[min(bisect_right(starts, page) - 1, len(lost) - 1)] for page in pages]
