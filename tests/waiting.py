"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(found: Callable[[], object], seconds: float = 90) -> None:
    """Poll until ``found`` is true; an error after so many seconds."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
