"""Small text and JSON files, written so that readers see the old content or the new, never a part; and copies."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import get_native_id
from typing import Any

import orjson
from filelock import FileLock

DAMAGED = ".damaged"
"""The end of the name of a file that `set_aside` has renamed."""

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+")


def write_atomic(path: Path, text: str, *, private: bool = False) -> None:
    """Replace the file at ``path`` (its folders are made) by ``text`` in UTF-8: written beside it, synced, renamed.

    A ``private`` file is one that only its user can read, from its first byte on, as is its folder if it is new.
    """
    path.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "w", encoding="utf-8", opener=_open_private if private else None) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name(path: Path) -> Path:
    """Where this thread writes what then replaces ``path``."""
    return path.with_name(f".{path.name}.{get_native_id()}")


def replaced_by(path: Path) -> Path | None:
    """The file that ``path`` was to replace, or that was made anew in its place: for a temporary file and for one that
    `set_aside` has renamed; None for any other."""
    if path.name.endswith(DAMAGED):
        return path.with_name(path.name.removesuffix(DAMAGED))
    found = _TEMPORARY.fullmatch(path.name)
    return None if found is None else path.with_name(found["name"])


def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files that killed processes left below a folder in which no process writes now."""
    for path in list(folder.rglob(".*")):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def make_database_file(path: Path, *statements: str) -> None:
    """Make an SQLite database with a write-ahead log, if there is no file, by ``statements``. Other processes see it
    whole or not at all: SQLite does not wait for those that make the same one.

    It has the permissions that the umask leaves: SQLite itself gives the group no right to write, whatever the umask. A
    database's log gets those of the database.
    """
    if path.exists():
        return
    temporary = temporary_name(path)
    with suppress(OSError):  # what hinders this SQLite will tell; another process may be first
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o666))
            with closing(sqlite3.connect(temporary, isolation_level=None)) as file:
                for statement in ("PRAGMA journal_mode=MEMORY", *statements, "PRAGMA journal_mode=WAL"):
                    file.execute(statement)
            path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(
    path: Path,
    value: Any,
    *,
    indent: int | None = 1,
    ensure_ascii: bool = False,
    sort_keys: bool = False,
    final_newline: bool = False,
) -> None:
    """Replace the file at ``path`` by ``value`` as JSON, as `write_atomic` does.

    Artifacts are named by their bytes, so each kind of file keeps the format it was first written in: ``indent``,
    ``ensure_ascii`` and ``sort_keys`` are those of `json.dumps`; ``final_newline`` ends the file with a line break.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    write_atomic(path, text + "\n" if final_newline else text)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of one JSON object a line, in UTF-8."""
    with path.open("wb") as out:
        out.writelines(orjson.dumps(row) + b"\n" for row in rows)


def copy_file(source: Path | str, target: Path | str) -> None:
    """Write the content of ``source`` to the file ``target``, which shares no inode with it.

    Where the file system can, both share their blocks until one is changed (Btrfs, XFS), or the server copies (NFS).
    """
    try:
        _copy_in_kernel(source, target)
    except (
        OSError,
        AttributeError,
    ):  # another file system or operating system, or a full disk: then so does this
        shutil.copyfile(source, target)


def _copy_in_kernel(source: Path | str, target: Path | str) -> None:
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        left = os.fstat(read.fileno()).st_size
        while left:
            done = os.copy_file_range(read.fileno(), write.fileno(), left)
            if not done:
                raise OSError(f"{source}: shorter than its size")
            left -= done


def make_read_only(folder: Path) -> None:
    """Take away the permission to write from every file below ``folder``; the folders keep it, to be deleted.

    A guard against accidents: a file system without permissions is left as it is.
    """
    for path in folder.rglob("*"):
        with suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                path.chmod(stat.S_IMODE(found.st_mode) & ~0o222)


def set_aside(path: Path, companions: Sequence[Path], inode: int) -> Path:
    """Rename a damaged file, and the files that belong to it, so that it can be made again; returns its new name.

    An earlier file of that name is replaced. Nothing is done if the file no longer has ``inode``: another process was
    first.
    """
    aside = path.with_name(f"{path.name}{DAMAGED}")
    with FileLock(f"{path}.lock"):
        if path.exists() and path.stat().st_ino == inode:
            for each in (*companions, path):  # never a new file with an old companion
                if each.exists():
                    each.replace(each.with_name(f"{each.name}{DAMAGED}"))
    return aside
