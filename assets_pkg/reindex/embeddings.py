"""The whole corpus through the promoted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resources.encoders.base import Encoder
from storage.artifact_store import write_atomic
from storage.artifacts import Checkpoint, Passages
from storage.progress import Progress

BLOCK = 4096


def embed_passages(
    passages: Passages, model: Checkpoint, encoder: Encoder, folder: Path, progress: Progress
) -> None:
    """Write ``embeddings.parquet`` (one row per passage, same order: ``passage_id``, ``vector`` float32 [d])
    and ``embeddings.json``. Blocks of passages stream through, so memory does not grow with the corpus."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), encoder.dimensions))])
    done = 0
    with (
        pq.ParquetFile(passages.path / "passages.parquet") as source,
        pq.ParquetWriter(folder / "embeddings.parquet", schema) as writer,
    ):
        total = source.metadata.num_rows
        for batch in source.iter_batches(batch_size=BLOCK, columns=["passage_id", "text"]):
            texts: list[Any] = batch.column("text").to_pylist()
            vectors = encoder.embed(texts, "passage", _from(done, total, progress))
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.dimensions)
            writer.write_batch(pa.record_batch([batch.column("passage_id"), column], schema=schema))
            done += len(texts)
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "model_digest": model.version,
        "encoder": encoder.identity("passage"),
        "passages": passages.version,
        "dimensions": encoder.dimensions,
        "count": done,
    }
    write_atomic(folder / "embeddings.json", json.dumps(manifest, indent=1, sort_keys=True))


def _from(before: int, of: int, progress: Progress) -> Progress:
    """The progress of one block, as part of the whole."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(before + done, of, unit, **figures)

    return report
