"""The interface of corpus sources, and the error of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


ReadResult: TypeAlias = tuple[Document | Skipped, str]
"""A document, or why it was skipped, and the digest of the bytes it was read from."""


class DocumentSource(Protocol):
    """A corpus that can be read document by document."""

    def __len__(self) -> int:
        """The number of documents to read, before any is skipped."""
        ...

    def read(self) -> Iterator[ReadResult]:
        """All documents, ordered by ``doc_id``."""
        ...

    def left_out(self) -> list[Skipped]:
        """What else :meth:`read` left out, besides documents."""
        ...

    def other_files(self) -> Mapping[str, int]:
        """How many files there are that are no documents, by their extension, the most frequent first."""
        ...

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        """The fingerprint of what :meth:`read` yielded, from its ``(doc_id, digest)`` pairs."""
        ...

    def current_fingerprint(self) -> str:
        """The fingerprint that :meth:`read` would yield now, without making documents."""
        ...

    def describe_empty(self) -> str:
        """The message for a source that has nothing to read."""
        ...
