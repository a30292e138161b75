"""Sizes of files and folders, and whether a full disk caused an error."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from storage.errors import chain


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 if the path does not exist."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_MESSAGES = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""Parts of the messages of libraries that raise no ``OSError``: safetensors, tokenizers, Lance, SQLite."""

PROBE_BYTES = 2**20


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether a full disk or quota caused ``error``, raised while writing below ``folder``, or one that led to it."""
    if any(_names_full_disk(each) for each in chain(error)):
        return True
    # NumPy and torch report that bytes were not written, but not why; so does SQLite when it cannot grow its log.
    unspecific = isinstance(error, (OSError, RuntimeError)) or "disk I/O error" in str(error)
    return unspecific and not has_space(folder)


def _names_full_disk(error: BaseException) -> bool:
    return getattr(error, "errno", None) in FULL_ERRNOS or any(
        message in str(error) for message in FULL_MESSAGES
    )


def has_space(folder: Path) -> bool:
    """Whether another ``PROBE_BYTES`` bytes can be written below ``folder``."""
    existing = next(each for each in (folder, *folder.absolute().parents) if os.access(each, os.X_OK))
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError as error:
        return error.errno not in FULL_ERRNOS
    return True
