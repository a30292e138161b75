"""What can be wrong with an evaluation."""

from storage.errors import RetuneError


class EvaluationError(RetuneError, ValueError):
    """An eval set or a set of scores that cannot be used; the message says which and what to change."""
