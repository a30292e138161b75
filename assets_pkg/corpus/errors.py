"""What goes wrong while documents are read or cut."""

from __future__ import annotations


class CorpusError(ValueError):
    """The corpus cannot be used; the message names the place, what was found there and what to do."""
