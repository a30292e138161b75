"""Signals during the submission of a job: either its handle is known by the time they act, or it never ran."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def started(start: Callable[[], str], cancel: Callable[[str], None]) -> str:
    """The handle that ``start()`` returns. A signal meanwhile is deferred until there is one; then ``cancel`` ends the
    job, and the signal's own handler runs."""
    handle: str | None = None
    with _deferred_signals() as caught:
        handle = start()
        if caught:
            cancel(handle)
    return handle


@contextmanager
def _deferred_signals() -> Generator[list[int]]:
    """Signals are handled at the end of the block. Only the main thread receives any."""
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
