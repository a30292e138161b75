"""What can be wrong with a measurement."""


class EvaluationError(ValueError):
    """An exam or a set of scores that cannot be used; the message says which and what to change."""
