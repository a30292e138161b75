"""The readers of documents, each in a process with limits, as a run has them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from assets_pkg.corpus.readers.file_document import FileDocument, ReadError, ReadOptions
from assets_pkg.corpus.readers.pool import ReaderPool, ReadLimits, items_in
from assets_pkg.corpus.readers.worker import UNFORESEEN
from storage.errors import RetuneError
from tests.corpus.office_files import TABLES, WITH_SECTIONS

LIMITS = ReadLimits(seconds=10, memory_mb=300)
OVER_LIMITS = ("too slow", "too large", "reader died")


class OverLimitError(RetuneError):
    """The file was given up."""


@cache
def _pool() -> ReaderPool:
    return ReaderPool(1, LIMITS, ReadOptions(max_bytes=LIMITS.max_bytes))


def read_document(path: Path) -> None:
    """Raises `RetuneError`: it cannot be read; the folder's reader adds the name as this does.

    A library's error that its reader does not expect is an `AssertionError`, though a run would skip the file.
    """
    try:
        made = _pool().submit(path).result()
    except ReadError as error:
        if UNFORESEEN in error.detail:
            raise AssertionError(error.detail) from error
        kind = OverLimitError if error.kind in OVER_LIMITS else RetuneError
        raise kind(f"{path.name}: {error}") from error
    for item in items_in(made):
        if isinstance(item, FileDocument):
            assert item.pages == sorted(item.pages)
            assert all(0 <= page <= len(item.text) for page in item.pages)
    made.unlink()


def right_files() -> dict[str, bytes]:
    """A file of each type, by its name."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        made: dict[str, bytes] = {}
        for name, write in {**WITH_SECTIONS, **TABLES}.items():
            path = Path(folder, name)
            write(path)
            made[name] = path.read_bytes()
    return made
