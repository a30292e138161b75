"""Who watches a run in a terminal: nobody by default, the command's live display when there is one."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Told what the steps of a run in this process are doing."""

    def started(self, step: str) -> None: ...
    def finished(self, step: str) -> None: ...
    def note(self, text: str) -> None: ...
    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None: ...


class _Nobody:
    def started(self, step: str) -> None: ...
    def finished(self, step: str) -> None: ...
    def note(self, text: str) -> None: ...
    def progress(self, step: str, done: int, total: int, unit: str, **figures: float) -> None: ...


_watcher: Watcher = _Nobody()


def watcher() -> Watcher:
    return _watcher


def watch_with(new: Watcher) -> None:
    """Show every later step of this process to ``new``."""
    global _watcher
    _watcher = new
