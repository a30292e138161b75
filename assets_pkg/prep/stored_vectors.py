"""Vectors of a training set's texts in a file, so that they need not fit into memory."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resources.compute.distributed_embedding import MakeShards
from resources.encoders.base import Encoder, Role
from resources.encoders.shards import Shards
from storage.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARDS = ".passage_shards"
TEXTS_AT_ONCE = 16384
"""Texts whose vectors are in memory at once, before they are written to the file."""


@contextmanager
def stored_vectors(
    encoder: Encoder,
    texts: Sequence[str],
    role: Role,
    folder: Path,
    progress: Progress,
    make_shards: MakeShards | None = None,
) -> Generator[NDArray[np.float32]]:
    """Vectors of ``texts``, float32 [n, d], in a memory-mapped file that is removed at the end."""
    path = vector_file(folder, role)
    if make_shards is None:
        blocks = _embed(encoder, texts, role, progress)
    else:
        blocks = _embed_on_workers(encoder, texts, role, folder, progress, make_shards)
    try:
        stored: NDArray[np.float32] | None = None
        start = 0
        for vectors in blocks:
            if stored is None:
                shape = (len(texts), vectors.shape[1])
                stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            stored[start : start + len(vectors)] = vectors
            start += len(vectors)
        del stored  # flushes
        yield np.load(path, mmap_mode="r")
    finally:
        path.unlink(missing_ok=True)


def _embed(
    encoder: Encoder, texts: Sequence[str], role: Role, progress: Progress
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        yield encoder.embed(part, role, _Offset(progress, start, len(texts)))


def _embed_on_workers(
    encoder: Encoder,
    texts: Sequence[str],
    role: Role,
    folder: Path,
    progress: Progress,
    make_shards: MakeShards,
) -> Iterator[NDArray[np.float32]]:
    """Vectors in blocks, from several workers; shards that an interrupted run completed are reused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shard_folder = folder / SHARDS
    shard_folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": texts}), shard_folder / "texts.parquet", row_group_size=TEXTS_AT_ONCE)
    shards = Shards(shard_folder / "texts.parquet", shard_folder, role, TEXTS_AT_ONCE)
    make_shards(shards, progress)
    yield from shards.vectors(encoder)
    shutil.rmtree(shard_folder)


def vector_file(folder: Path, role: Role) -> Path:
    return folder / f".{role}_vectors.npy"


@dataclass(frozen=True)
class _Offset:
    """Reports the progress of a part as progress of the whole."""

    progress: Progress
    before: int
    total: int

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.progress(self.before + done, self.total, unit, **figures)
