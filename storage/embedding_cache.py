"""A cache of vectors on disk, keyed by everything that determines them, so that only new texts are embedded."""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import RetuneError

if TYPE_CHECKING:
    import lmdb
    import numpy as np
    from numpy.typing import NDArray

FIRST_MAP_SIZE = 64 * 2**20
"""Bytes of address space reserved at first; doubled when full. The file takes only what is written."""

MAX_READERS = 1024

_one_at_a_time = threading.Lock()
"""LMDB must not be open twice in one process."""


class EmbeddingCacheError(RetuneError, RuntimeError):
    """The cache folder is damaged or unusable."""


class EmbeddingCache:
    """Float32 vectors by (identity, text digest), in an LMDB file under ``folder``.

    ``identity`` is the encoder's (weights, prefix, length, precision). Every :meth:`put` is one transaction, on
    disk when it returns: a killed process loses at most the block being written. Several threads
    and processes on one machine may share a folder; it must lie on a local disk (LMDB maps it into memory).
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, identity: str, digests: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The cached vectors by text digest: float32 [d] each."""
        import numpy as np

        keys = [(digest, _key(identity, digest)) for digest in digests]
        with self._environment() as environment, _begin(environment) as transaction:
            found = ((digest, transaction.get(key)) for digest, key in keys)
            return {
                digest: np.frombuffer(value, dtype="<f4").copy()
                for digest, value in found
                if value is not None
            }

    def put(self, identity: str, digests: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep ``vectors`` (float32 [len(digests), d]); an existing vector is not replaced.

        Raises:
            OSError: the disk is full (``errno.ENOSPC``).
            EmbeddingCacheError: the cache is damaged.
        """
        if len(digests) != len(vectors):
            raise ValueError(f"{len(digests)} digests for {len(vectors)} vectors")
        items = [
            (_key(identity, digest), vector.astype("<f4", copy=False).tobytes())
            for digest, vector in zip(digests, vectors, strict=True)
        ]
        with self._environment() as environment:
            while not _write(environment, items):
                environment.set_mapsize(2 * environment.info()["map_size"])

    def remove(self, digests: Collection[str]) -> int:
        """Delete the vectors of these texts, of every encoder; returns how many there were. Their space in the file is
        used for the next ones."""
        if not (self.folder / "data.mdb").exists():
            return 0
        wanted = {digest.encode() for digest in digests}
        with self._environment() as environment, _begin(environment, write=True) as transaction:
            keys = map(bytes, transaction.cursor().iternext(keys=True, values=False))
            found = [key for key in keys if key.rpartition(b":")[2] in wanted]
            return sum(transaction.delete(key) for key in found)

    @contextmanager
    def _environment(self) -> Generator[lmdb.Environment]:
        """The LMDB file, open for one operation: opening takes well under a millisecond, and so nothing
        is open across a fork, or twice. Opening also adopts the size of a map that another process has grown."""
        import lmdb

        with _one_at_a_time:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with lmdb.open(
                    str(self.folder), map_size=self._map_size(), max_readers=MAX_READERS, readahead=False
                ) as environment:
                    environment.reader_check()
                    yield environment
            except lmdb.Error as error:
                raise self._explain(error) from error

    def _map_size(self) -> int:
        """Twice the size of the file."""
        data = self.folder / "data.mdb"
        return max(FIRST_MAP_SIZE, 2 * data.stat().st_size if data.exists() else 0)

    def _explain(self, error: Exception) -> Exception:
        if "No space left" in str(error):
            return OSError(errno.ENOSPC, "disk full while caching embeddings", str(self.folder))
        return EmbeddingCacheError(
            f"embedding cache {self.folder}: {error}: delete that folder (it only saves time) and run again"
        )


def _key(identity: str, digest: str) -> bytes:
    return f"{identity}:{digest}".encode()


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
                transaction.put(key, value, overwrite=False)
    except lmdb.MapFullError:
        return False
    return True
