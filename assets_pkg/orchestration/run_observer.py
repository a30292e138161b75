"""The observer of this process's steps: none by default, the command's live display when there is one."""

from __future__ import annotations

from typing import Protocol


class RunObserver(Protocol):
    """Notified of what the steps of a run in this process are doing."""

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
    """The observer of this process."""
    return _observer


def set_run_observer(observer: RunObserver) -> None:
    """Notify ``observer`` of every later step of this process."""
    global _observer
    _observer = observer
