"""The interface of corpus sources, and the error of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from storage.artifacts import Document
from storage.errors import RetuneError


class CorpusError(RetuneError, ValueError):
    """The corpus cannot be used; the message names the path, what was found there and what to do."""


@dataclass(frozen=True)
class Skipped:
    """A document that was left out: ``kind`` is the category that is counted, ``detail`` the explanation."""

    doc_id: str
    kind: str
    detail: str

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(frozen=True)
class Found:
    """A document, and what its row does not hold.

    Args:
        pages: the offsets in its text at which its pages begin; empty for one without pages.
        warnings: a sentence each.
        file_fields: the names of its metadata fields that the file itself gave, not the user.
    """

    document: Document
    pages: Sequence[int] = ()
    warnings: Sequence[str] = ()
    file_fields: Sequence[str] = ()


Item: TypeAlias = Found | Skipped


@dataclass(frozen=True)
class FileRead:
    """A file, the digest of the bytes it was read from, and its documents; most files are one."""

    name: str
    digest: str
    items: Iterable[Item]


class DocumentSource(Protocol):
    """A corpus that can be read document by document."""

    def __len__(self) -> int:
        """The number of documents to read, before any is skipped."""
        ...

    def read(self) -> Iterator[FileRead]:
        """All files, ordered by name; the documents of each are used up before the next is asked for."""
        ...

    def left_out(self) -> list[Skipped]:
        """What else :meth:`read` left out, besides documents."""
        ...

    def other_files(self) -> Mapping[str, int]:
        """How many files there are that are no documents, by their extension, the most frequent first."""
        ...

    def not_read(self) -> Iterable[Skipped]:
        """The same files, each with the reason."""
        ...

    def files_by_type(self) -> Mapping[str, int]:
        """How many files of each type there are to read, by the types' names, the most frequent first."""
        ...

    def figures(self) -> Mapping[str, int]:
        """How many files :meth:`read` had to convert into text (``files_converted``), and of how many it had the text
        from before (``files_unchanged``)."""
        ...

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        """The fingerprint of what :meth:`read` yielded, from its ``(name, digest)`` pairs."""
        ...

    def current_fingerprint(self) -> str:
        """The fingerprint that :meth:`read` would yield now, without making documents."""
        ...

    def describe_empty(self) -> str:
        """The message for a source that has nothing to read."""
        ...
