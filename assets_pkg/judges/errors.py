"""Errors of the caption judges."""

from __future__ import annotations

from storage.errors import RetuneError


class CaptionError(RetuneError, ValueError):
    """Captions that cannot be judged; the message names file and clip, and what to do."""


class JudgeError(RetuneError, RuntimeError):
    """Too few judges can be used; the message has the reason for each."""


class RankingError(RetuneError, ValueError):
    """Scores that cannot be ranked because of a tie or a gap; the message names judge and captioners."""
