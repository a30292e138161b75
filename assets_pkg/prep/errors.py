"""The error of the ``prep`` stage."""

from storage.errors import RetuneError


class PrepError(RetuneError, ValueError):
    """Pairs, a training set or an eval set cannot be used; the message names it and what to change."""
