"""Embed the whole corpus with the promoted model: in this process, by the deployed server, or by several workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.deploy import server_of
from assets_pkg.deploy.interface import interface_of
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_state import DeployError
from resources.compute.distributed_embedding import MakeShards
from resources.encoders.cached import CachedEncoder
from resources.encoders.shards import BLOCK, Shards
from storage.artifact_store import ArtifactStore
from storage.artifacts import Checkpoint, OnnxModel, Passages
from storage.digests import digest_json
from storage.embedding_cache import EmbeddingCache
from storage.files import write_json
from storage.paths import EMBEDDING_CACHE, STATE_FOLDER
from storage.progress import Progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

PASSAGES_AT_ONCE = 4096
MANIFEST = "embeddings.json"
SHARDS, REMOVED_SHARDS = "together", "together.gone"


def embed_corpus(
    passages: Passages,
    model: Checkpoint,
    encoder: CachedEncoder,
    contract: Mapping[str, Any],
    folder: Path,
    progress: Progress,
    make_shards: MakeShards | None = None,
) -> None:
    """As :func:`embed_passages`; with ``make_shards``, several workers first embed the texts that ``encoder`` has no
    cached vectors of.

    Shards that an interrupted run left are reused; ``encoder`` itself replaces damaged ones.
    """
    if make_shards is not None:
        _embed_by_workers(passages, encoder, make_shards, folder / SHARDS, progress)
    embed_passages(passages, model, encoder, contract, folder, progress)
    # Renamed first, so that workers that still look for shards see all of them or none; also removes what an
    # interrupted removal left.
    shutil.rmtree(folder / REMOVED_SHARDS, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree((folder / SHARDS).rename(folder / REMOVED_SHARDS))


def _embed_by_workers(
    passages: Passages, encoder: CachedEncoder, make_shards: MakeShards, folder: Path, progress: Progress
) -> None:
    """Fill the cache of ``encoder`` with the vectors of all passages."""
    folder.mkdir(exist_ok=True)
    source = folder / "texts.parquet"
    if not source.exists():
        _write_new_texts(passages, encoder, source)
    shards = Shards(source, folder, "passage")
    if shards.rows:
        make_shards(shards, progress)
    for number, vectors in enumerate(shards.vectors(encoder)):
        encoder.keep(shards.texts(number), "passage", vectors)


def _write_new_texts(passages: Passages, encoder: CachedEncoder, target: Path) -> None:
    """Write the texts without a cached vector to a Parquet file, atomically; the shards follow its order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = target.with_suffix(".part")
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetFile(_file(passages)) as all_texts, pq.ParquetWriter(partial, schema) as writer:
        for batch in all_texts.iter_batches(batch_size=BLOCK, columns=["text"]):
            texts: Any = batch.column("text").to_pylist()
            new = encoder.unknown(texts, "passage")
            writer.write_batch(batch.take(pa.array(new, pa.int64())))
    partial.replace(target)


def embed_passages(
    passages: Passages,
    model: Checkpoint,
    encoder: CachedEncoder,
    contract: Mapping[str, Any],
    folder: Path,
    progress: Progress,
) -> None:
    """Write ``embeddings.parquet`` (one row per passage, same order: ``passage_id``, ``vector`` float32 [d])
    and ``embeddings.json``. Passages are embedded in blocks, so memory does not grow with the corpus. What an
    interrupted run had completed is left unchanged.

    Args:
        contract: prefixes and lengths that ``encoder`` uses, for the manifest: queries must use the same.
    """
    if (folder / MANIFEST).exists():  # written last
        return
    count, dimensions = _write(passages, encoder, _vectors(passages, encoder, progress), folder)
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "model_digest": model.version,
        "encoder": encoder.identity("passage"),
        "contract": dict(contract),
        "passages": passages.version,
        "dimensions": dimensions,
        "count": count,
    }
    write_json(folder / MANIFEST, manifest, ensure_ascii=True, sort_keys=True)


def _vectors(passages: Passages, encoder: CachedEncoder, progress: Progress) -> Iterator[Vectors]:
    known = sum(encoder.count_known(texts, "passage") for texts in _texts(passages))
    whole = _WholeProgress(progress, passages.row_count() or 0, known)
    for texts in _texts(passages):
        yield encoder.embed(texts, "passage", whole)
        whole.next_block()
    whole.finish()


def _texts(passages: Passages) -> Iterator[list[Any]]:
    """Those of all passages, in blocks."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(_file(passages)) as source:
        for batch in source.iter_batches(batch_size=PASSAGES_AT_ONCE, columns=["text"]):
            yield batch.column("text").to_pylist()


def _write(
    passages: Passages, encoder: CachedEncoder, blocks: Iterable[Vectors], folder: Path
) -> tuple[int, int]:
    """Write ``blocks`` with the passages' ids; returns the number of vectors and their dimensions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remaining = iter(blocks)
    first = next(remaining, None)
    dimensions = encoder.dimensions if first is None else first.shape[1]
    schema = pa.schema([("passage_id", pa.string()), ("vector", pa.list_(pa.float32(), dimensions))])
    done = 0
    with (
        pq.ParquetFile(_file(passages)) as source,
        # Vectors neither repeat nor compress: a dictionary and compression triple the time and enlarge the file.
        pq.ParquetWriter(
            folder / "embeddings.parquet", schema, compression="none", use_dictionary=False
        ) as writer,
    ):
        ids = source.iter_batches(batch_size=PASSAGES_AT_ONCE, columns=["passage_id"])
        for batch, vectors in zip(ids, chain([] if first is None else [first], remaining), strict=True):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimensions)
            writer.write_batch(pa.record_batch([batch.column("passage_id"), column], schema=schema))
            done += len(vectors)
    return done, dimensions


def _file(passages: Passages) -> Path:
    return passages.path / "passages.parquet"


class _WholeProgress:
    """The progress of blocks as that of the whole, of which ``known`` texts need not be embedded. A block without new
    texts is no progress."""

    def __init__(self, progress: Progress, total: int, known: int):
        self.progress = progress
        self.total = total
        self.known = known
        self.before = self.now = 0.0
        self.reported = -1

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        self.now = done - figures.get("cached", 0)
        self._report(int(self.known + self.before + self.now))

    def next_block(self) -> None:
        self.before, self.now = self.before + self.now, 0.0

    def finish(self) -> None:
        """Texts that occur more than once were embedded once."""
        self._report(self.total)

    def _report(self, done: int) -> None:
        done = min(done, self.total)
        if done != self.reported:
            self.reported = done
            self.progress(done, self.total, "texts", cached=self.known)


@contextmanager
def served_encoder(
    store: ArtifactStore, settings: DeploySettings, model: Checkpoint, exported: OnnxModel
) -> Iterator[CachedEncoder]:
    """The deployed server as the encoder of ``model``, with cached vectors. A block is cached only if the server
    still serves that model afterwards.

    Args:
        exported: what was deployed; with the type of server it determines the vectors.

    Raises:
        DeployError: no server serves ``model``.
    """
    server = server_of(store.root / STATE_FOLDER, model.version)

    def check_model() -> None:
        if not server.serves_its_model():
            raise DeployError(
                f"the server at {server.url} no longer serves {model.version}: materialize vector_index again (`retune "
                "reindex`); the blocks that were finished are kept"
            )

    server_type = [settings.server, settings.nim_image, settings.use_onnx] if settings.server == "nim" else []
    identity = digest_json(["served", exported.version, *server_type])
    dimensions: int = exported.manifest()["dimensions"]
    interface = interface_of(server.backend)
    served = ServedEncoder(
        server.url, settings.served_model_name, dimensions, identity, interface, check_model
    )
    with closing(served):
        yield CachedEncoder(served, EmbeddingCache(store.root / EMBEDDING_CACHE))
