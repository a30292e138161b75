"""Vectors of many texts in shards, made in any order by several processes; each is complete or absent.

A killed process loses the shard that it was making. An existing shard is not made again, unless it is damaged (by
Parquet's page checksums), truncated, or of another number of texts.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Encoder, Role
from resources.encoders.cached import CachedEncoder

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

BLOCK = 4096
SUFFIX = ".parquet"


@dataclass(frozen=True)
class Shards:
    """The column ``text`` of the Parquet file ``source``, embedded in ``role``: ``block`` texts a shard.

    Shard n is ``folder/<n>.parquet`` with one column ``vector``, float32 [d], for the rows from n * ``block`` on. It
    appears by a rename: a shard that exists is complete.
    """

    source: Path
    folder: Path
    role: Role
    block: int = BLOCK

    @cached_property
    def rows(self) -> int:
        """Number of texts."""
        with _parquet().ParquetFile(self.source) as file:
            return file.metadata.num_rows

    @property
    def count(self) -> int:
        return -(-self.rows // self.block)

    def has(self, number: int) -> bool:
        return self._path(number).exists()

    def missing(self) -> list[int]:
        """The shards that do not exist yet; the folder must exist."""
        existing = {entry.name for entry in os.scandir(self.folder)}
        return [number for number in range(self.count) if self._path(number).name not in existing]

    def size(self, number: int) -> int:
        """Number of texts in a shard."""
        return min(self.block, self.rows - number * self.block)

    def make(self, number: int, encoder: Encoder) -> Vectors:
        """Embed one block and write its shard; returns the vectors."""
        pa, pq = _arrow(), _parquet()
        vectors = CachedEncoder(encoder).embed(self.texts(number), self.role)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        temporary = self.folder / f".{number}.{uuid.uuid4().hex}"
        try:
            table = pa.table({"vector": column})
            pq.write_table(
                table, temporary, compression="none", use_dictionary=False, write_page_checksum=True
            )
            temporary.replace(self._path(number))
        finally:
            temporary.unlink(missing_ok=True)
        return vectors

    def read(self, number: int) -> Vectors | None:
        """The vectors of a shard, float32 [n, d], or None if it does not exist or is damaged."""
        pa, pq = _arrow(), _parquet()
        try:
            table = pq.read_table(self._path(number), page_checksum_verification=True)
            column = table.column("vector").combine_chunks()
            width: int = column.type.list_size
            vectors = column.flatten().to_numpy().reshape(-1, width)
        except (OSError, pa.ArrowException, KeyError, AttributeError, ValueError):
            return None
        return vectors if len(vectors) == self.size(number) else None

    def vectors(self, encoder: Encoder) -> Iterator[Vectors]:
        """All vectors in order, a shard at a time; missing and damaged ones are made now."""
        for number in range(self.count):
            vectors = self.read(number)
            yield self.make(number, encoder) if vectors is None else vectors

    def texts(self, number: int) -> list[str]:
        """The texts of a shard; no more of the source is read than the row groups that they lie in."""
        start, size = number * self.block, self.size(number)
        with _parquet().ParquetFile(self.source) as file:
            groups: list[int] = []
            before = at = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if at + rows <= start:
                    before = at + rows
                elif at < start + size:
                    groups.append(group)
                at += rows
            column = file.read_row_groups(groups, columns=["text"]).column("text")
            return column.slice(start - before, size).to_pylist()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08}{SUFFIX}"


def _arrow() -> Any:
    """pyarrow, untyped: its own types are incomplete."""
    return import_module("pyarrow")


def _parquet() -> Any:
    return import_module("pyarrow.parquet")
