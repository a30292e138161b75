"""What every corpus source gives, document by document, and what can go wrong while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from storage.artifacts import Document
from storage.errors import RetuneError


class CorpusError(RetuneError, ValueError):
    """The corpus cannot be used; the message names the place, what was found there and what to do."""


@dataclass(frozen=True)
class Skipped:
    """A document that was left out: ``kind`` is one of a few words to count by, ``detail`` says more."""

    doc_id: str
    kind: str
    detail: str

    @property
    def reason(self) -> str:
        return f"{self.kind}: {self.detail}"


Reading: TypeAlias = tuple[Document | Skipped, str]
"""What became of one document, and the digest of the bytes it was read from."""


class Source(Protocol):
    """Somewhere documents are read from."""

    def __len__(self) -> int:
        """How many documents there are to read, before any is skipped."""
        ...

    def read(self) -> Iterator[Reading]:
        """All of them, ordered by ``doc_id``."""
        ...

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        """The fingerprint of what :meth:`read` gave, from its ``(doc_id, digest)`` pairs."""
        ...

    def current_fingerprint(self) -> str:
        """The fingerprint that reading now would have, without making documents."""
        ...

    def describe_empty(self) -> str:
        """What to say when there was nothing to read."""
        ...
