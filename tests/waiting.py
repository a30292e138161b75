"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(found: Callable[[], object], seconds: float = 90) -> None:
    """Poll until ``found`` is true, the less often the longer it takes; an error after so many seconds."""
    started = time.monotonic()
    while not found():
        waited = time.monotonic() - started
        assert waited < seconds, "it did not come to pass"
        time.sleep(min(max(waited / 10, 0.1), 1))
