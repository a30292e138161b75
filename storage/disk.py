"""How many bytes files take, and whether an error was caused by a full disk."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is neither."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""Of libraries that tell the reason in words alone: safetensors, tokenizers, Lance, SQLite."""

PROBE_BYTES = 2**20


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether ``error``, met while writing below ``folder``, or one that led to it, came of a full disk or quota."""
    if any(_says_so(each) for each in _chain(error)):
        return True
    # NumPy and torch tell that bytes were not written, but not why; so does SQLite where its log has no room.
    unsaid = isinstance(error, (OSError, RuntimeError)) or "disk I/O error" in str(error)
    return unsaid and not has_space(folder)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _says_so(error: BaseException) -> bool:
    return getattr(error, "errno", None) in FULL_ERRNOS or any(words in str(error) for words in WORDS)


def has_space(folder: Path) -> bool:
    """Whether a little more can be written below ``folder``."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error.errno not in FULL_ERRNOS
    return True
