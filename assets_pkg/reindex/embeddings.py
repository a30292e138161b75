"""The whole corpus through the promoted model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.base import Encoder
from storage.artifact_store import write_atomic
from storage.artifacts import Checkpoint, Passages
from storage.progress import Progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

BLOCK = 4096
MANIFEST = "embeddings.json"


def embed_passages(
    passages: Passages,
    model: Checkpoint,
    encoder: Encoder,
    contract: Mapping[str, Any],
    folder: Path,
    progress: Progress,
) -> None:
    """Write ``embeddings.parquet`` (one row per passage, same order: ``passage_id``, ``vector`` float32 [d])
    and ``embeddings.json``. Blocks of passages stream through, so memory does not grow with the corpus. What a killed
    try had finished is left as it is.

    Args:
        contract: prefixes and lengths that ``encoder`` works with, for the manifest: queries must use the same.
    """
    if (folder / MANIFEST).exists():  # the last that is written
        return
    count, dimensions = _write(passages, encoder, _embedded(passages, encoder, progress), folder)
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "model_digest": model.version,
        "encoder": encoder.identity("passage"),
        "contract": dict(contract),
        "passages": passages.version,
        "dimensions": dimensions,
        "count": count,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))


def _embedded(passages: Passages, encoder: Encoder, progress: Progress) -> Iterator[Vectors]:
    import pyarrow.parquet as pq

    done, started = 0, time.monotonic()
    with pq.ParquetFile(_file(passages)) as source:
        total = source.metadata.num_rows
        for batch in source.iter_batches(batch_size=BLOCK, columns=["text"]):
            texts: list[Any] = batch.column("text").to_pylist()
            yield encoder.embed(texts, "passage", _from(done, total, started, progress))
            done += len(texts)


def _write(passages: Passages, encoder: Encoder, blocks: Iterable[Vectors], folder: Path) -> tuple[int, int]:
    """Put ``blocks`` beside the passages' ids; returns how many vectors there are, and their length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting = iter(blocks)
    first = next(waiting, None)
    dimensions = encoder.dimensions if first is None else first.shape[1]
    schema = pa.schema([("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), dimensions))])
    done = 0
    with (
        pq.ParquetFile(_file(passages)) as source,
        # Vectors neither repeat nor compress: trying both costs three times the writing, and makes the file larger.
        pq.ParquetWriter(
            folder / "embeddings.parquet", schema, compression="none", use_dictionary=False
        ) as writer,
    ):
        ids = source.iter_batches(batch_size=BLOCK, columns=["passage_id"])
        for batch, vectors in zip(ids, chain([] if first is None else [first], waiting), strict=True):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions)
            writer.write_batch(pa.record_batch([batch.column("passage_id"), column], schema=schema))
            done += len(vectors)
    return done, dimensions


def _file(passages: Passages) -> Path:
    return passages.path / "passages.parquet"


def _from(before: int, of: int, started: float, progress: Progress) -> Progress:
    """The progress of one block, as part of the whole, with the rate so far and the time left at that rate."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        rate = (before + done) / max(time.monotonic() - started, 1e-3)
        left = (of - before - done) / rate if rate else 0.0
        progress(before + done, of, unit, **figures, per_second=rate, minutes_left=left / 60)

    return report
