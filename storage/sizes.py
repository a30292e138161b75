"""How much room files take."""

from __future__ import annotations

from pathlib import Path


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is neither."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())
