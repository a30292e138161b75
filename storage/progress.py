"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Called by long steps: ``done`` of ``total`` ``unit``s, and figures worth showing (loss, rate)."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None: ...


Note = Callable[[str], None]
"""Told a sentence for the user: what a step is about to do, or what is odd."""


def no_progress(done: int, total: int, unit: str, **figures: float) -> None:
    """For callers who do not watch."""


def no_note(text: str) -> None:
    """For callers who do not listen."""
