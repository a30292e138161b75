"""Python's search for garbage, in processes that import large libraries."""

from __future__ import annotations

import atexit
import gc

NEW_OBJECTS = 50_000
"""How many more objects than before start a search, instead of Python's 700 or 2,000."""


def spare_imports() -> None:
    """Search less often from now on, and not at all when the process ends.

    What importing torch and its like makes, half a million objects, stays as long as the process: to go through all of
    it again and again, and once more at the end, takes a quarter of the time of the import.
    """
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)
