"""A cache of vectors on disk, keyed by everything that determines them, so that only new texts are embedded."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from storage.disk import is_disk_full
from storage.errors import RetuneError
from storage.files import DAMAGED, make_database_file, set_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE_NAME = "vectors.sqlite"
FORMER_FILES = ("data.mdb", "lock.mdb")
"""Of earlier versions, which kept the vectors with LMDB."""

PAGE_BYTES = 65536
"""The most that SQLite can: the end of a page, where no further vector fits, is wasted."""

WAIT_S = 600.0
"""For other processes, which write for a fraction of a second each."""

CHECKSUM_BYTES = 4

_PAGE_SIZE = f"PRAGMA page_size={PAGE_BYTES}"
_SETTINGS = (_PAGE_SIZE, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS vectors (digest TEXT NOT NULL, identity TEXT NOT NULL, vector BLOB NOT NULL, "
    "UNIQUE (digest, identity))"
)
_DAMAGES = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,  # the table is another one than was made here
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_READONLY,  # what may be written was checked before: a damaged header says so
    }
)

T = TypeVar("T")

log = logging.getLogger(__name__)


class EmbeddingCacheError(RetuneError, RuntimeError):
    """The cache folder is unusable."""


class EmbeddingCache:
    """Float32 vectors by (identity, text digest), in an SQLite file under ``folder``.

    ``identity`` is the encoder's (weights, prefix, length, precision). Every :meth:`put` is one transaction: a killed
    process loses at most the block being written, a power cut at most the last few (sqlite.org/wal.html). Several
    threads and processes on one machine may share a folder, which must lie on a local disk.

    A vector is kept with a checksum, and one that does not match it counts as absent. A file that SQLite finds damaged
    is set aside with a warning, and the cache starts anew; pages are read, not mapped, so that no damage can end the
    process. Where this user cannot write, on a read-only file system say, nothing is found and nothing kept, with a
    warning. What an earlier version kept is taken over at the first use.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, identity: str, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The cached vectors by text digest: float32 [d] each, finite."""
        if not self._is_writable():
            return {}
        self._take_over()
        found = self._on_file(lambda file: _read(file, identity, digests))
        right = {digest: vector for digest, vector in found.items() if len(vector)}
        if len(right) < len(found):
            log.warning(
                "embedding cache %s: %d damaged vectors are made again", self.folder, len(found) - len(right)
            )
        return right

    def count(self, identity: str, digests: Sequence[str]) -> int:
        """How many of the texts have a vector; it is not read, and may be damaged."""
        if not self._is_writable():
            return 0
        self._take_over()
        return self._on_file(lambda file: sum(_is_kept(file, identity, digest) for digest in digests))

    def put(self, identity: str, digests: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep ``vectors`` (float32 [len(digests), d]). An existing vector is not replaced unless it is damaged; one
        that is not finite is not kept.

        Raises:
            OSError: the disk is full (``errno.ENOSPC``).
            EmbeddingCacheError: the cache cannot be written.
        """
        import numpy as np

        if len(digests) != len(vectors):
            raise ValueError(f"{len(digests)} digests for {len(vectors)} vectors")
        if not self._is_writable():
            return
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        if not finite.all():
            log.warning(
                "embedding cache %s: %d of %d vectors are not finite numbers and not kept",
                self.folder,
                int((~finite).sum()),
                len(vectors),
            )
        rows = [
            (identity, digest, vector.astype("<f4", copy=False).tobytes())
            for digest, vector, kept in zip(digests, vectors, finite, strict=True)
            if kept
        ]
        self._take_over()
        self.keep(rows)

    def keep(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """:meth:`put` for vectors of any encoders: identity, digest and little-endian float32 each."""
        self._on_file(lambda file: _write(file, rows))

    def remove(self, digests: Collection[str]) -> int:
        """Delete the vectors of these texts, of every encoder; returns how many there were. Their space in the file is
        overwritten, and used for the next ones."""
        self._take_over()
        if not self._data.exists():
            return 0
        return self._on_file(lambda file: _delete(file, digests))

    @property
    def _data(self) -> Path:
        return self.folder / FILE_NAME

    @property
    def _companions(self) -> list[Path]:
        return [self.folder / f"{FILE_NAME}{end}" for end in ("-wal", "-shm")]

    def _is_writable(self) -> bool:
        """Whether SQLite can work here; even readers write, into the index of the log.

        The log and its index are not looked at: SQLite gives them the owner and the permissions of the database, and
        other processes make and remove them at any time.
        """
        parents = (each for each in (self.folder, *self.folder.absolute().parents) if each.exists())
        closed = next((each for each in (next(parents), self._data) if _is_closed(each)), None)
        if closed is not None:
            _warn_closed(closed)
        return closed is None

    def _on_file(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns for the file, open for one operation, so that it is not open across a fork; for a new
        file if it is damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        inode = self._data.stat().st_ino if self._data.exists() else 0
        try:
            try:
                return self._open(work)
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a message that quotes damage
                if not _is_damage(error):
                    raise
                aside = set_aside(self._data, self._companions, inode)
                log.warning(
                    "embedding cache %s is damaged (%s): it was renamed to %s, and its vectors are made again",
                    self._data,
                    error,
                    aside.name,
                )
                return self._open(work)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def _open(self, work: Callable[[sqlite3.Connection], T]) -> T:
        make_database_file(self._data, _PAGE_SIZE, _TABLE)
        with closing(sqlite3.connect(self._data, timeout=WAIT_S, isolation_level=None)) as file:
            for statement in (*_SETTINGS, _TABLE):  # of the file, too, if it was emptied
                file.execute(statement)
            return work(file)

    def _explain(self, error: Exception) -> Exception:
        if is_disk_full(error, self.folder):
            return OSError(errno.ENOSPC, "disk full while caching embeddings", str(self.folder))
        return EmbeddingCacheError(
            f"embedding cache {self.folder}: {error}: delete that folder (it only saves time) and run again"
        )

    def _take_over(self) -> None:
        """Take over what an earlier version kept, in a process of its own: LMDB maps its file into memory, where damage
        may end the process that reads it."""
        former = self.folder / FORMER_FILES[0]
        if not former.is_file() or not os.access(self.folder, os.W_OK):
            return
        with FileLock(f"{former}.lock"):
            if not former.exists():
                return
            command = [sys.executable, "-m", "storage.former_embedding_cache", str(self.folder)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            for path in (self.folder / name for name in FORMER_FILES):
                if done.returncode == 0:
                    path.unlink(missing_ok=True)
                elif path.exists():
                    path.replace(path.with_name(f"{path.name}{DAMAGED}"))
        if done.returncode == 0:
            log.info("embedding cache %s: %s", self.folder, done.stdout.strip())
        else:
            said = done.stderr.strip().rpartition("\n")[2] or f"its reader ended with {done.returncode}"
            log.warning(
                "embedding cache %s is damaged (%s): it was renamed to %s, and vectors that could not be read are made "
                "again",
                former,
                said,
                f"{former.name}{DAMAGED}",
            )


def _is_closed(path: Path) -> bool:
    """Whether it exists and this user cannot write it; not if another process makes or renames it between two looks."""
    return path.exists() and not os.access(path, os.W_OK) and path.exists()


@cache
def _warn_closed(path: Path) -> None:
    """Once for each path: every block of texts would say it again."""
    log.warning("embedding cache: %s cannot be written: vectors are computed and not kept", path)


def _is_damage(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return (
        isinstance(error, UnicodeDecodeError) or code & 0xFF in _DAMAGES
    )  # the other bits say more about it


def _checksum(identity: str, digest: str, vector: bytes) -> bytes:
    """Of the key too: damage may lead to another row."""
    key = f"{identity}:{digest}".encode()
    return zlib.crc32(vector, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "little")


def _is_right(identity: str, digest: str, value: object) -> bool:
    if not isinstance(value, bytes):
        return False
    vector = value[:-CHECKSUM_BYTES]
    right = _checksum(identity, digest, vector)
    return len(vector) > 0 and len(vector) % 4 == 0 and right == value[-CHECKSUM_BYTES:]


def _kept(file: sqlite3.Connection, identity: str, digest: str) -> object:
    """What is kept under a key; None if nothing is."""
    row = file.execute(
        "SELECT CAST(vector AS BLOB) FROM vectors WHERE digest = ? AND identity = ?", (digest, identity)
    ).fetchone()
    return None if row is None else row[0]


def _is_kept(file: sqlite3.Connection, identity: str, digest: str) -> bool:
    """Whether something is kept under a key; only the index of keys is read."""
    row = file.execute(
        "SELECT 1 FROM vectors WHERE digest = ? AND identity = ?", (digest, identity)
    ).fetchone()
    return row is not None


def _read(file: sqlite3.Connection, identity: str, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The vectors; an empty one if it is damaged."""
    import numpy as np

    found: dict[str, NDArray[np.float32]] = {}
    for digest in digests:
        value = _kept(file, identity, digest)
        if isinstance(value, bytes) and _is_right(identity, digest, value):
            found[digest] = np.frombuffer(value[:-CHECKSUM_BYTES], dtype="<f4").copy()
        elif value is not None:
            found[digest] = np.empty(0, dtype="<f4")
    return found


def _write(file: sqlite3.Connection, rows: Iterable[tuple[str, str, bytes]]) -> None:
    """Write all or nothing."""
    file.execute("BEGIN IMMEDIATE")
    for identity, digest, vector in rows:
        row = (digest, identity, vector + _checksum(identity, digest, vector))
        done = file.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", row)
        if done.rowcount == 0 and not _is_right(identity, digest, _kept(file, identity, digest)):
            file.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", row)
    file.execute("COMMIT")


def _delete(file: sqlite3.Connection, digests: Collection[str]) -> int:
    file.execute("PRAGMA secure_delete=ON")
    file.execute("BEGIN IMMEDIATE")
    removed = sum(
        file.execute("DELETE FROM vectors WHERE digest = ?", (digest,)).rowcount for digest in digests
    )
    file.execute("COMMIT")
    file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return removed
