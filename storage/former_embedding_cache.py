"""The embedding cache of earlier versions, an LMDB file: ``python -m storage.former_embedding_cache FOLDER`` puts its
vectors into today's.

A process of its own, which damage may end.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from storage.embedding_cache import CHECKSUM_BYTES, FORMER_FILES, EmbeddingCache

BLOCK = 1000
CHECKED = b":2"
"""The end of the key of an entry with a checksum."""


def read_former(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Identity, digest and vector (little-endian float32) of every entry that is right.

    Raises:
        lmdb.Error: the file is damaged.
    """
    import lmdb

    path = folder / FORMER_FILES[0]
    with lmdb.open(str(folder), map_size=2 * path.stat().st_size, readonly=True, lock=False) as environment:
        announced = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < announced:
            raise lmdb.CorruptedError(f"{path.stat().st_size:,} bytes where {announced:,} are announced")
        with environment.begin() as transaction:
            for key, value in transaction.cursor():
                vector = value[:-CHECKSUM_BYTES] if key.endswith(CHECKED) else value
                if _is_right(key, value, vector):
                    identity, _, digest = key.removesuffix(CHECKED).decode().rpartition(":")
                    yield identity, digest, vector


def _is_right(key: bytes, value: bytes, vector: bytes) -> bool:
    """Whether an entry is what was written; one without a checksum, whether its numbers are a vector's."""
    import numpy as np

    if not vector or len(vector) % 4:
        return False
    if key.endswith(CHECKED):
        checksum = zlib.crc32(vector, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "little")
        return checksum == value[-CHECKSUM_BYTES:]
    numbers = np.frombuffer(vector, dtype="<f4")
    return bool(numbers.any() and np.isfinite(numbers).all())


def main() -> None:
    folder = Path(sys.argv[1])
    cache, entries, count = EmbeddingCache(folder), read_former(folder), 0
    while block := list(islice(entries, BLOCK)):
        cache.keep(block)
        count += len(block)
    sys.stdout.write(f"{count} vectors of an earlier version are taken over\n")


if __name__ == "__main__":
    main()
