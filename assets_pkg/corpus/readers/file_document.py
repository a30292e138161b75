"""What a reader makes of a file, and the error of a file that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from storage.errors import RetuneError


class ReadError(RetuneError, ValueError):
    """A file cannot be read: ``kind`` is the category that is counted, ``detail`` says why and what to do."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class FileDocument:
    """One document of a file; most files are one, a table has one for each row.

    Args:
        text: Markdown.
        title: empty where the file names none.
        metadata: what the file itself says of it, or the other columns of its row.
        warnings: what a reader of the document should know, a sentence each.
        part: which part of the file it is (a row, a sheet's row); empty for the whole.
        pages: for files with pages the offsets in ``text`` at which each begins, the first page's first.
    """

    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    warnings: list[str] = field(default_factory=list[str])
    part: str = ""
    pages: list[int] = field(default_factory=list[int])


@dataclass(frozen=True)
class UnreadPart:
    """A part of a file that cannot be read, as :class:`ReadError` says it of a whole file."""

    part: str
    kind: str
    detail: str


@dataclass(frozen=True)
class ReadOptions:
    """How tables are read: ``text_columns`` make a row's text, ``title_column`` its title, ``id_column`` its name; the
    others are its metadata. With None: columns that are named so, else all columns are text.

    ``max_bytes``: what an archive may unpack to.
    """

    text_columns: list[str] | None = None
    title_column: str | None = None
    id_column: str | None = None
    max_bytes: int = 1 << 30


FileItem: TypeAlias = FileDocument | UnreadPart
Reader: TypeAlias = Callable[[Path, ReadOptions], Iterator[FileItem]]


def joined_pages(pages: Iterable[str]) -> tuple[str, list[int]]:
    """The text of all pages, and the offset at which each begins."""
    starts: list[int] = []
    parts: list[str] = []
    length = 0
    for page in pages:
        starts.append(length)
        if page.strip():
            parts.append(page.strip() + "\n\n")
            length += len(parts[-1])
    return "".join(parts), starts
