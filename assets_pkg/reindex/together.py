"""The corpus through the promoted model, its new texts by all workers of a place where there are several."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from assets_pkg.reindex.embeddings import embed_passages
from resources.compute.spread import MakeShards
from resources.encoders.cached import CachedEncoder
from resources.encoders.shards import BLOCK, Shards
from storage.artifacts import Checkpoint, Passages
from storage.progress import Progress

FOLDER, GONE = "together", "together.gone"


def embed_corpus(
    passages: Passages,
    model: Checkpoint,
    encoder: CachedEncoder,
    contract: Mapping[str, Any],
    folder: Path,
    progress: Progress,
    make_shards: MakeShards | None = None,
) -> None:
    """As :func:`embed_passages`; ``make_shards`` are several workers, who embed what ``encoder`` does not know yet.

    Shards that a killed try left are taken up; ``encoder`` itself makes those that turn out damaged.
    """
    if make_shards is not None:
        _embed_together(passages, encoder, make_shards, folder / FOLDER, progress)
    embed_passages(passages, model, encoder, contract, folder, progress)
    # In one step, for workers that still look for something to do; and what a killed try left of that.
    shutil.rmtree(folder / GONE, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree((folder / FOLDER).rename(folder / GONE))


def _embed_together(
    passages: Passages, encoder: CachedEncoder, make_shards: MakeShards, together: Path, progress: Progress
) -> None:
    """Make ``encoder`` know all passages."""
    together.mkdir(exist_ok=True)
    source = together / "texts.parquet"
    if not source.exists():
        _write_new_texts(passages, encoder, source)
    shards = Shards(source, together, "passage")
    if shards.rows:
        make_shards(shards, progress)
    for number, vectors in enumerate(shards.vectors(encoder)):
        encoder.keep(shards.texts(number), "passage", vectors)


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
