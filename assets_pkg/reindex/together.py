"""The corpus's new texts through all workers of a place, before the vectors of all are put together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from resources.compute.spread import MakeShards
from resources.encoders.cached import CachedEncoder
from resources.encoders.shards import BLOCK, Shards
from storage.artifacts import Passages
from storage.progress import Progress

FOLDER = "together"


def embed_together(
    passages: Passages, encoder: CachedEncoder, make_shards: MakeShards, folder: Path, progress: Progress
) -> None:
    """Embed by several workers the passages that ``encoder`` does not know yet, and make it know them.

    Shards that a killed try left in ``folder`` are taken up; ``encoder`` itself makes those that turn out damaged.
    """
    together = folder / FOLDER
    together.mkdir(exist_ok=True)
    source = together / "texts.parquet"
    if not source.exists():
        _write_new_texts(passages, encoder, source)
    shards = Shards(source, together, "passage")
    if shards.rows:
        make_shards(shards, progress)
    for number, vectors in enumerate(shards.vectors(encoder)):
        encoder.keep(shards.texts(number), "passage", vectors)
    shutil.rmtree(together)


def _write_new_texts(passages: Passages, encoder: CachedEncoder, target: Path) -> None:
    """The texts without a vector, in a Parquet file that appears whole: its order is that of the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = target.with_suffix(".part")
    schema = pa.schema([("text", pa.string())])
    with (
        pq.ParquetFile(passages.path / "passages.parquet") as all_texts,
        pq.ParquetWriter(beside, schema) as writer,
    ):
        for batch in all_texts.iter_batches(batch_size=BLOCK, columns=["text"]):
            texts: Any = batch.column("text").to_pylist()
            new = encoder.unknown(texts, "passage")
            writer.write_batch(batch.take(pa.array(new, pa.int64())))
    beside.replace(target)
