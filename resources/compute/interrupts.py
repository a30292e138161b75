"""Ctrl-C while a job is being started: the job is known by then, or it never ran."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def started(start: Callable[[], str], cancel: Callable[[str], None]) -> str:
    """The handle that ``start()`` gives. A signal meanwhile waits until there is one; then the job is ended with
    ``cancel``, and the signal does what it would have done."""
    handle: str | None = None
    with _held() as caught:
        handle = start()
        if caught:
            cancel(handle)
    return handle


@contextmanager
def _held() -> Generator[list[int]]:
    """Signals come only when the block is over. Only the main thread gets any."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in SIGNALS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])
