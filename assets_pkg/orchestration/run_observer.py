"""Who watches a run in a terminal: nobody by default, the command's live display when there is one."""

from __future__ import annotations

from typing import Protocol


class RunObserver(Protocol):
    """Told what the steps of a run in this process are doing."""

    def started(self, step: str) -> None: ...
    def finished(self, step: str) -> None: ...
    def note(self, text: str) -> None: ...
    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None: ...


class _NoObserver:
    def started(self, step: str) -> None: ...
    def finished(self, step: str) -> None: ...
    def note(self, text: str) -> None: ...
    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None: ...


_observer: RunObserver = _NoObserver()


def run_observer() -> RunObserver:
    return _observer


def set_run_observer(new: RunObserver) -> None:
    """Show every later step of this process to ``new``."""
    global _observer
    _observer = new
