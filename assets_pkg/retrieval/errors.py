"""What can go wrong with a search or its measurement."""

from __future__ import annotations

from storage.errors import RetuneError


class RetrievalError(RetuneError, ValueError):
    """A parallel search that failed, or a run that cannot be scored; the message says why and what to change."""


class TeacherError(RetrievalError):
    """A teacher that cannot be used; names it and what is wrong."""
