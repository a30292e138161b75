"""The whole corpus through the promoted model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.compute.spread import MakeShards
from resources.encoders.base import Encoder
from resources.encoders.shards import BLOCK, Shards
from storage.artifact_store import write_atomic
from storage.artifacts import Checkpoint, Passages
from storage.progress import Progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

MANIFEST = "embeddings.json"
SHARDS = "shards"


def embed_passages(
    passages: Passages,
    model: Checkpoint,
    encoder: Encoder,
    folder: Path,
    progress: Progress,
    make_shards: MakeShards | None = None,
) -> None:
    """Write ``embeddings.parquet`` (one row per passage, same order: ``passage_id``, ``vector`` float32 [d])
    and ``embeddings.json``. Blocks of passages stream through, so memory does not grow with the corpus.

    With ``make_shards``, several workers embed: in shards, which are then put together to the same files. Shards that a
    killed try left are taken up, and ``encoder`` is needed only for those that turn out damaged.
    """
    if make_shards is None:
        _write(passages, model, encoder, _embedded(passages, encoder, progress), folder)
        return
    shards = Shards(_file(passages), folder / SHARDS, "passage")
    if not (folder / MANIFEST).exists():  # the last that is written
        shards.folder.mkdir(exist_ok=True)
        make_shards(shards, progress)
        _write(passages, model, encoder, shards.vectors(encoder), folder)
    shutil.rmtree(shards.folder, ignore_errors=True)


def _embedded(passages: Passages, encoder: Encoder, progress: Progress) -> Iterator[Vectors]:
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetFile(_file(passages)) as source:
        total = source.metadata.num_rows
        for batch in source.iter_batches(batch_size=BLOCK, columns=["text"]):
            texts: list[Any] = batch.column("text").to_pylist()
            yield encoder.embed(texts, "passage", _from(done, total, progress))
            done += len(texts)


def _write(
    passages: Passages, model: Checkpoint, encoder: Encoder, blocks: Iterable[Vectors], folder: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting = iter(blocks)
    first = next(waiting, None)
    dimensions = encoder.dimensions if first is None else first.shape[1]
    schema = pa.schema([("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), dimensions))])
    done = 0
    with (
        pq.ParquetFile(_file(passages)) as source,
        pq.ParquetWriter(folder / "embeddings.parquet", schema) as writer,
    ):
        ids = source.iter_batches(batch_size=BLOCK, columns=["passage_id"])
        for batch, vectors in zip(ids, chain([] if first is None else [first], waiting), strict=True):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions)
            writer.write_batch(pa.record_batch([batch.column("passage_id"), column], schema=schema))
            done += len(vectors)
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "model_digest": model.version,
        "encoder": encoder.identity("passage"),
        "passages": passages.version,
        "dimensions": dimensions,
        "count": done,
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))


def _file(passages: Passages) -> Path:
    return passages.path / "passages.parquet"


def _from(before: int, of: int, progress: Progress) -> Progress:
    """The progress of one block, as part of the whole."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(before + done, of, unit, **figures)

    return report
