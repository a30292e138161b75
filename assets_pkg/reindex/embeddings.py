"""The whole corpus through the promoted model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.encoders.base import Encoder
from storage.artifact_store import write_atomic
from storage.artifacts import Checkpoint, Passages
from storage.progress import Progress

BLOCK = 4096


def embed_passages(
    passages: Passages,
    model: Checkpoint,
    encoder: Encoder,
    contract: Mapping[str, Any],
    folder: Path,
    progress: Progress,
) -> None:
    """Write ``embeddings.parquet`` (one row per passage, same order: ``passage_id``, ``vector`` float32 [d])
    and ``embeddings.json``. Blocks of passages stream through, so memory does not grow with the corpus.

    Args:
        contract: prefixes and lengths that ``encoder`` works with, for the manifest: queries must use the same.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), encoder.dimensions))])
    done, started = 0, time.monotonic()
    with (
        pq.ParquetFile(passages.path / "passages.parquet") as source,
        pq.ParquetWriter(folder / "embeddings.parquet", schema) as writer,
    ):
        total = source.metadata.num_rows
        for batch in source.iter_batches(batch_size=BLOCK, columns=["passage_id", "text"]):
            texts: list[Any] = batch.column("text").to_pylist()
            vectors = encoder.embed(texts, "passage", _from(done, total, started, progress))
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dimensions)
            writer.write_batch(pa.record_batch([batch.column("passage_id"), column], schema=schema))
            done += len(texts)
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "model_digest": model.version,
        "encoder": encoder.identity("passage"),
        "contract": dict(contract),
        "passages": passages.version,
        "dimensions": encoder.dimensions,
        "count": done,
    }
    write_atomic(folder / "embeddings.json", json.dumps(manifest, indent=1, sort_keys=True))


def _from(before: int, of: int, started: float, progress: Progress) -> Progress:
    """The progress of one block, as part of the whole, with the rate so far and the time left at that rate."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        rate = (before + done) / max(time.monotonic() - started, 1e-3)
        left = (of - before - done) / rate if rate else 0.0
        progress(before + done, of, unit, **figures, per_second=rate, minutes_left=left / 60)

    return report
