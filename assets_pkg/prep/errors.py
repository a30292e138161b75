"""What can be wrong with the data that stage 1 is given."""

from storage.errors import RetuneError


class PrepError(RetuneError, ValueError):
    """Question-answer pairs or sets that cannot be used; the message says which and what to change."""
