"""What can be wrong with captions and judgements."""

from __future__ import annotations

from storage.errors import RetuneError


class CaptionError(RetuneError, ValueError):
    """Captions that cannot be judged; the message names file and clip and says what to do."""


class JudgeError(RetuneError, RuntimeError):
    """No judge can be used; the message has each one's reason."""


class RankingError(RetuneError, ValueError):
    """Scores that give no ranking: a tie or a gap; the message names judge and captioners."""
