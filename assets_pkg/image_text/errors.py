"""Errors of the image-text benchmark."""

from __future__ import annotations

from storage.errors import RetuneError


class PairError(RetuneError, ValueError):
    """Image-text pairs that cannot be used; the message names file and row."""


class BenchmarkError(RetuneError, RuntimeError):
    """The benchmark cannot be run; the message says why and what to do."""
