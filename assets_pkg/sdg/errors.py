"""What goes wrong while questions are made."""

from __future__ import annotations

from storage.errors import RetuneError


class SdgError(RetuneError, ValueError):
    """No usable question-answer pairs could be made; the message says why and what to do."""
