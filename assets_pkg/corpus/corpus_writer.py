"""Writes what a source yields into the folder of a corpus, with a bounded number of documents in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from assets_pkg.corpus.document_source import FileRead, Found, Skipped
from assets_pkg.corpus.metadata import FieldTypes
from storage.artifacts import PAGES_FILE, WARNINGS_FILE, Document
from storage.files import write_json_lines
from storage.parquet import RowWriter, integer_lists, strings


class CorpusWriter:
    """A context manager; what was counted is known after it.

    Args:
        language_of: says the ISO 639-1 code of a text's language.
    """

    def __init__(self, folder: Path, language_of: Callable[[str], str]) -> None:
        self._folder = folder
        self._language_of = language_of
        self._rows = RowWriter(folder / "documents.parquet", Document)
        self._fields = FieldTypes()
        self._pages: dict[str, Sequence[int]] = {}
        self._warnings: list[dict[str, str]] = []
        self._characters = 0
        self._languages: Counter[str] = Counter()
        self.documents = 0
        self.skipped: list[Skipped] = []
        self.digests: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.__exit__(kind, error, trace)
        if self._pages:
            _write_pages(self._folder / PAGES_FILE, self._pages)
        if self._warnings:
            write_json_lines(self._folder / WARNINGS_FILE, self._warnings)

    def add(self, file: FileRead) -> None:
        """Write a file's documents.

        Raises:
            CorpusError: a field of the user's has another type than in an earlier document.
        """
        self.digests.append((file.name, file.digest))
        for item in file.items:
            if isinstance(item, Skipped):
                self.skipped.append(item)
            else:
                self._add(item)

    def _add(self, found: Found) -> None:
        document, warnings = found.document, list(found.warnings)
        if found.file_fields:
            metadata, lost = self._fields.fit(document.metadata, found.file_fields)
            document = Document(document.doc_id, document.title, document.text, metadata)
            warnings += [
                f"the field {name!r} is left out: its type is another in earlier documents" for name in lost
            ]
        self._fields.add(document.metadata, document.doc_id)
        self._rows.add(document)
        self.documents += 1
        self._characters += len(document.text)
        self._languages[self._language_of(document.text)] += 1
        self._warnings += [{"doc_id": document.doc_id, "warning": warning} for warning in warnings]
        if found.pages:
            self._pages[document.doc_id] = found.pages

    def summary(self) -> dict[str, Any]:
        """The figures of what was written."""
        types = sorted(self._fields.types.items())
        return {
            "documents": self.documents,
            "characters": self._characters,
            "languages": dict(self._languages.most_common()),
            "metadata_fields": ", ".join(f"{name}: {kind}" for name, kind in types),
            "skipped": len(self.skipped),
            "skipped_by_reason": dict(sorted(Counter(item.kind for item in self.skipped).items())),
            "warnings": len(self._warnings),
        }


def _write_pages(path: Path, pages: Mapping[str, Sequence[int]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("doc_id", pa.string()), ("starts", pa.list_(pa.int64()))])
    columns = [strings(pages), integer_lists(list(pages.values()))]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
