"""A cache of vectors on disk, keyed by everything that determines them, so that only new texts are embedded."""

from __future__ import annotations

import errno
import logging
import os
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from storage.errors import RetuneError
from storage.files import set_aside

if TYPE_CHECKING:
    import lmdb
    import numpy as np
    from numpy.typing import NDArray

FIRST_MAP_SIZE = 64 * 2**20
"""Bytes of address space reserved at first; doubled when full. The file takes only what is written."""

MAX_READERS = 1024
CHECKSUM_BYTES = 4

T = TypeVar("T")

log = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()
"""LMDB must not be open twice in one process."""


class EmbeddingCacheError(RetuneError, RuntimeError):
    """The cache folder is unusable."""


class EmbeddingCache:
    """Float32 vectors by (identity, text digest), in an LMDB file under ``folder``.

    ``identity`` is the encoder's (weights, prefix, length, precision). Every :meth:`put` is one transaction, on
    disk when it returns: a killed process loses at most the block being written. Several threads
    and processes on one machine may share a folder; it must lie on a local disk (LMDB maps it into memory).

    A vector is kept with a checksum, and one that does not match it counts as absent. A file that LMDB cannot read, or
    that is cut short, is set aside with a warning, and the cache starts anew. Where this user cannot write, on a
    read-only file system say, nothing is found and nothing kept, with a warning.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, identity: str, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The cached vectors by text digest: float32 [d] each, finite."""

        def read(environment: lmdb.Environment) -> dict[str, NDArray[np.float32]]:
            with _begin(environment) as transaction:
                found = ((digest, _read(transaction, identity, digest)) for digest in digests)
                return {digest: vector for digest, vector in found if vector is not None}

        if not self._is_writable():
            return {}
        found = self._on_file(read)
        right = {digest: vector for digest, vector in found.items() if len(vector)}
        if len(right) < len(found):
            log.warning(
                "embedding cache %s: %d damaged vectors are made again", self.folder, len(found) - len(right)
            )
        return right

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
        items = [
            _entry(identity, digest, vector.astype("<f4", copy=False).tobytes())
            for digest, vector, kept in zip(digests, vectors, finite, strict=True)
            if kept
        ]

        def write(environment: lmdb.Environment) -> None:
            while not _write(environment, items):
                environment.set_mapsize(2 * environment.info()["map_size"])

        self._on_file(write)

    def remove(self, digests: Collection[str]) -> int:
        """Delete the vectors of these texts, of every encoder; returns how many there were. Their space in the file is
        used for the next ones."""
        if not self._data.exists():
            return 0
        wanted = {digest.encode() for digest in digests}

        def delete(environment: lmdb.Environment) -> int:
            with _begin(environment, write=True) as transaction:
                keys = map(bytes, transaction.cursor().iternext(keys=True, values=False))
                found = [key for key in keys if _digest_of(key) in wanted]
                return sum(transaction.delete(key) for key in found)

        return self._on_file(delete)

    @property
    def _data(self) -> Path:
        return self.folder / "data.mdb"

    def _is_writable(self) -> bool:
        """Whether LMDB can work here; even readers write, into the table of readers."""
        parents = (each for each in (self.folder, *self.folder.absolute().parents) if each.exists())
        files = (each for each in (self._data, self.folder / "lock.mdb") if each.exists())
        closed = next((each for each in (next(parents), *files) if not os.access(each, os.W_OK)), None)
        if closed is not None:
            log.warning("embedding cache: %s cannot be written: vectors are computed and not kept", closed)
        return closed is None

    def _on_file(self, work: Callable[[lmdb.Environment], T]) -> T:
        """What ``work`` returns for the LMDB file; for a new one if the file is damaged."""
        import lmdb

        damage = (
            lmdb.InvalidError,
            lmdb.CorruptedError,
            lmdb.PageNotFoundError,
            lmdb.VersionMismatchError,
        )
        with _one_at_a_time:
            self.folder.mkdir(parents=True, exist_ok=True)
            inode = self._data.stat().st_ino if self._data.exists() else 0
            try:
                try:
                    return self._open(work)
                except damage as error:
                    aside = set_aside(self._data, [self.folder / "lock.mdb"], inode)
                    log.warning(
                        "embedding cache %s is damaged (%s): it was renamed to %s, and its vectors "
                        "are made again",
                        self._data,
                        error,
                        aside.name,
                    )
                    return self._open(work)
            except lmdb.Error as error:
                raise self._explain(error) from error

    def _open(self, work: Callable[[lmdb.Environment], T]) -> T:
        """Run ``work`` on the LMDB file, open for one operation: opening takes well under a millisecond, and so nothing
        is open across a fork, or twice. Opening also adopts the size of a map that another process has grown."""
        import lmdb

        with lmdb.open(
            str(self.folder), map_size=self._map_size(), max_readers=MAX_READERS, readahead=False
        ) as environment:
            self._check_length(environment)
            environment.reader_check()
            return work(environment)

    def _check_length(self, environment: lmdb.Environment) -> None:
        """Reading a page that is mapped but not in the file would end the process by a signal."""
        import lmdb

        announced = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        size = self._data.stat().st_size
        if 0 < size < announced:
            raise lmdb.CorruptedError(f"{size:,} bytes where {announced:,} are announced")

    def _map_size(self) -> int:
        """Twice the size of the file."""
        return max(FIRST_MAP_SIZE, 2 * self._data.stat().st_size if self._data.exists() else 0)

    def _explain(self, error: Exception) -> Exception:
        if "No space left" in str(error):
            return OSError(errno.ENOSPC, "disk full while caching embeddings", str(self.folder))
        return EmbeddingCacheError(
            f"embedding cache {self.folder}: {error}: delete that folder (it only saves time) and run again"
        )


def _former_key(identity: str, digest: str) -> bytes:
    """The key of an entry without a checksum, as earlier versions wrote it."""
    return f"{identity}:{digest}".encode()


def _key(identity: str, digest: str) -> bytes:
    return f"{identity}:{digest}:2".encode()


def _digest_of(key: bytes) -> bytes:
    """The text's digest in a key of either form."""
    return key.removesuffix(b":2").rpartition(b":")[2]


def _entry(identity: str, digest: str, vector: bytes) -> tuple[bytes, bytes]:
    key = _key(identity, digest)
    return key, vector + _checksum(key, vector)


def _checksum(key: bytes, vector: bytes | memoryview) -> bytes:
    """Of the key too: damage may lead to another entry."""
    return zlib.crc32(vector, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "little")


def _is_right(key: bytes, value: bytes | memoryview) -> bool:
    vector = value[:-CHECKSUM_BYTES]
    return len(vector) > 0 and len(vector) % 4 == 0 and _checksum(key, vector) == value[-CHECKSUM_BYTES:]


def _read(transaction: lmdb.Transaction, identity: str, digest: str) -> NDArray[np.float32] | None:
    """The vector; an empty one if it is damaged, None if there is none."""
    import numpy as np

    damaged = np.empty(0, dtype="<f4")
    key = _key(identity, digest)
    value = transaction.get(key)
    if value is not None:
        return (
            np.frombuffer(value[:-CHECKSUM_BYTES], dtype="<f4").copy() if _is_right(key, value) else damaged
        )
    value = transaction.get(_former_key(identity, digest))
    if value is None:
        return None
    vector = np.frombuffer(value, dtype="<f4").copy() if len(value) % 4 == 0 else damaged
    return vector if vector.any() and np.isfinite(vector).all() else damaged


def _begin(environment: lmdb.Environment, *, write: bool = False) -> lmdb.Transaction:
    """A transaction; adopts the map's size if another process has grown it since it was opened."""
    import lmdb

    while True:
        try:
            return environment.begin(write=write, buffers=True)
        except lmdb.MapResizedError:
            environment.set_mapsize(0)


def _write(environment: lmdb.Environment, items: Sequence[tuple[bytes, bytes]]) -> bool:
    """Write all or nothing; False if the map is too small."""
    import lmdb

    try:
        with _begin(environment, write=True) as transaction:
            for key, value in items:
                if not transaction.put(key, value, overwrite=False):
                    kept = transaction.get(key)
                    if kept is None or not _is_right(key, kept):
                        transaction.put(key, value)
    except lmdb.MapFullError:
        return False
    return True
