"""Lists the files of a folder: names relative to it, with ``/``. Those that begin with a dot are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class ListedFile(NamedTuple):
    """A path below the folder, relative to it; whether it is a link that leads out, and such a link to a folder."""

    name: str
    leads_out: bool = False
    is_folder: bool = False


class _Folder(NamedTuple):
    path: str
    prefix: str
    """Of the names in it."""


def list_files(root: Path, within: Path) -> Iterator[ListedFile]:
    """Files below ``root``, folders that cannot be opened, and links that lead out of ``within``.

    Linked folders come after all real ones, so that a file that is reached both ways gets its real path; each real
    folder comes once, so that a loop ends.
    """
    pending, seen = [_Folder(str(root), "")], set[tuple[int, int]]()
    while pending:
        linked: list[_Folder] = []
        for folder in pending:
            yield from _list_real(folder, within, seen, linked)
        outside = [folder for folder in linked if leads_out(Path(folder.path), within)]
        yield from (ListedFile(folder.prefix[:-1], leads_out=True, is_folder=True) for folder in outside)
        pending = [folder for folder in linked if folder not in outside]


def leads_out(path: Path, within: Path) -> bool:
    """Whether a path is a link to something that is not below ``within``."""
    if not path.is_symlink():
        return False
    try:
        return not path.resolve().is_relative_to(within)
    except (OSError, RuntimeError):  # a link to itself, which reading will name
        return False


def _list_real(
    root: _Folder, within: Path, seen: set[tuple[int, int]], linked: list[_Folder]
) -> Iterator[ListedFile]:
    """Files below ``root`` without following links; those to folders are added to ``linked``."""
    pending = [root]
    while pending:
        path, prefix = pending.pop()
        try:
            with os.scandir(path) as scanned:
                entries = [entry for entry in scanned if not entry.name.startswith(".")]
            status = os.stat(path)
        except OSError:
            yield ListedFile(prefix[:-1] or ".")
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders: list[_Folder] = []
        for entry in sorted(entries, key=lambda each: each.name):
            name, is_link = prefix + entry.name, entry.is_symlink()
            if _is_folder(entry):
                (linked if is_link else folders).append(_Folder(entry.path, f"{name}/"))
            else:
                yield ListedFile(name, is_link and leads_out(Path(entry.path), within))
        pending += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
