"""Checks that the files of a version are those that were published.

A file that was found right is not hashed again until its size, times or inode change; a damaged disk changes none of
these, so that a caller who must be sure asks for all files to be hashed.
"""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from storage.digests import digest_file
from storage.files import write_json

SETTLED_NS = 2_000_000_000
"""Age of a change from which a later one is sure to show in a file's times, whatever the file system's clock."""


def first_damaged(folder: Path, files: Mapping[str, Any], record: Path, *, anew: bool = False) -> str | None:
    """The first of ``files`` (name -> manifest entry) of ``folder`` that is not what was published, or None.

    Args:
        record: where it is kept which files were found right. It only saves time, and may be deleted.
        anew: hash every file, whatever the record says.
    """
    known = {} if anew else _load(record)
    right: dict[str, list[int]] = {}
    damaged = None
    for name, entry in files.items():
        path = folder / name
        found = _stamp(path)
        if found is None or (known.get(name) != found and not _matches(path, entry)):
            damaged = name
            break
        if _stamp(path) == found and time.time_ns() - max(found[1:3]) > SETTLED_NS:
            right[name] = found
    if right != known:
        _keep(record, right)
    return damaged


def _matches(path: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return path.stat().st_size == entry["bytes"] and digest_file(path) == entry["sha256"]
    except OSError:  # gone, or a sector that cannot be read
        return False


def _stamp(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _load(record: Path) -> dict[str, Any]:
    try:
        known: Any = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", known) if isinstance(known, dict) else {}


def _keep(record: Path, right: Mapping[str, list[int]]) -> None:
    try:
        write_json(record, right, indent=None, ensure_ascii=True)
    except OSError:
        return  # in a store that is full or may only be read, files are hashed each time
