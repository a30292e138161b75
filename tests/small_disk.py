"""A disk that really has no room: a file system in memory of a few kilobytes, mounted for a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """What is mounted at ``folder``."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte of it."""
        with suppress(OSError), (self.folder / "filling").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(512))

    def grow(self, size: str) -> None:
        """Somebody makes room."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """An empty disk of ``size`` (``64k``, ``4m``) at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder on a read-only mount of itself: even root cannot write there."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
