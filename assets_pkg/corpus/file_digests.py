"""SHA-256 digests of a folder's files, kept so that an unchanged file is not read again.

A file counts as unchanged while its size, modification time, inode change time, inode and device are the same, as in
Git's index. A file that changed within the last seconds before it was hashed could change again without a new time
stamp (git-scm.com/docs/racy-git), so its digest is not kept.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson

from storage.artifact_store import write_atomic
from storage.digests import digest_text

DIGESTS = "file_digests"
"""Below the cache of the artifact root."""

RACY_NS = 3_000_000_000
"""More than the coarsest resolution of a file system's time stamps: FAT's two seconds."""


class FileDigests:
    """Digests of the files below ``root``; a context manager that saves what it computed.

    Args:
        root: the folder.
        cache: where digests are kept, one JSON file for each ``root``; with None every file is hashed. A cache that is
            missing, malformed or not writable costs time only.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self._root = str(root)
        self._path = cache / f"{digest_text(str(root.absolute()))}.json" if cache else None
        self._known = _load(self._path) if self._path else {}
        self._current: dict[str, list[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path and self._current != self._known:
            with suppress(OSError):
                write_atomic(self._path, orjson.dumps(self._current).decode())

    def of(self, name: str) -> str:
        """The digest of the file ``name`` (relative to the root): 64 hex digits.

        Raises:
            OSError: it cannot be read, or is not a regular file.
        """
        path = os.path.join(self._root, name)
        key = name.encode("utf-8", "backslashreplace").decode()
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise OSError(f"{path}: not a regular file")
        entry = self._known.get(key)
        if entry is None or entry[:-1] != _stamp(found):
            entry = _hash(Path(path))
        if entry[:-1]:
            self._current[key] = entry
        return entry[-1]


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        entries: Any = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    valid = isinstance(entries, dict) and all(isinstance(each, list) and each for each in entries.values())
    return entries if valid else {}


def _hash(path: Path) -> list[Any]:
    """The stamp and the digest; the digest alone if the file changed just before or meanwhile."""
    started = time.time_ns()
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        after = os.fstat(stream.fileno())
    settled = started - max(before.st_mtime_ns, before.st_ctime_ns) > RACY_NS
    return [*_stamp(before), digest] if settled and _stamp(before) == _stamp(after) else [digest]


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
