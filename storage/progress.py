"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long steps: ``done`` of ``total`` ``unit``s, and figures worth showing (loss, rate)."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None: ...


def no_progress(done: int, total: int, unit: str, **figures: float) -> None:
    """For callers who do not watch."""
