"""Callbacks by which long steps report progress and notes; what they are connected to is the caller's choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Called by long steps: ``done`` of ``total`` ``unit``s, and figures to show (loss, rate)."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None: ...


Note = Callable[[str], None]
"""Called with a sentence for the user: what a step is about to do, or what is unusual."""


def no_progress(done: int, total: int, unit: str, **figures: float) -> None:
    """Ignores progress; the default."""


def no_note(text: str) -> None:
    """Ignores notes; the default."""
