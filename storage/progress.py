"""Callbacks by which long steps report progress and notes; what they are connected to is the caller's choice."""

from __future__ import annotations

import time
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


class Rate:
    """How fast a piece of work goes and when it will be done, from its first computed pieces on: what comes before
    them, like loading a model, is done once. What was found in a cache does not count: the time left is that of what
    must be computed."""

    def __init__(self) -> None:
        self._work: tuple[str, ...] = ()
        self._first = self._now = (0.0, 0.0)
        self._begun = False
        self._left = 0

    def add(self, work: tuple[str, ...], done: int, total: int, cached: float = 0) -> None:
        """A report of ``work``, of whose ``done`` pieces ``cached`` were not computed. With fewer than before it is
        done anew."""
        before, self._now = self._now, (done - cached, time.monotonic())
        anew = work != self._work or self._now[0] < before[0]
        if anew or not self._begun:
            self._work, self._first = work, self._now
            self._begun = not anew and self._now[0] > before[0]
        self._left = total - done

    def __str__(self) -> str:
        count, seconds = (now - first for now, first in zip(self._now, self._first, strict=True))
        if count <= 0 or seconds <= 0:
            return ""
        rate = count / seconds
        left = f", {duration(self._left / rate)} left" if self._left else ""
        return f"{rate:,.0f}/s{left}" if rate >= 10 else f"{rate:.2g}/s{left}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3:05 min``, ``2:10 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def shown_figures(figures: dict[str, float]) -> str:
    """``loss 1.234, cached 1,200``: thousands in groups, else four significant digits."""
    return ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
