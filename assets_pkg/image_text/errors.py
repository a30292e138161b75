"""What can be wrong with pairs and with what is measured on them."""

from __future__ import annotations

from storage.errors import RetuneError


class PairError(RetuneError, ValueError):
    """Pairs of image and text that cannot be used; the message names file and row."""


class BenchmarkError(RetuneError, RuntimeError):
    """The benchmark cannot be run; the message says why and what to do."""
