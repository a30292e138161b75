"""What is left of a document beside the versions that hold it: the vectors of its texts, and what cannot be deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from assets_pkg.automation.retention import Removal
from assets_pkg.corpus.file_reading import READ_CACHE
from storage.artifact_store import MANIFEST, ArtifactStore
from storage.artifacts import Artifact, Passages, QAPairs
from storage.digests import digest_text
from storage.embedding_cache import EmbeddingCache
from storage.formats.qa_records import SourceRecord, read_records
from storage.paths import CACHE, EMBEDDING_CACHE

TELLING = ("passages", "synthetic_qa")
"""Assets that name a document beside every text of it that models embed; what comes after repeats their texts."""

OF_OTHER_INPUTS = (
    "image_text_pairs",
    "captions",
    "image_text_scores",
    "image_text_report",
    "judge_scores",
    "judge_ranking",
)
"""Assets that may hold texts, and never of the corpus."""


def forget_vectors(store: ArtifactStore, holders: Sequence[Removal], doc_id: str) -> int:
    """Delete the cached vectors of the texts that ``holders`` have of the document, of every model; returns how many
    there were. The holders must still be there: the cache has digests of the texts only."""
    texts = {text for holder in holders for text in _texts(store, holder, doc_id)}
    return EmbeddingCache(store.root / EMBEDDING_CACHE).remove({digest_text(text) for text in texts})


def forget_kept_text(store: ArtifactStore) -> None:
    """Delete the text that readers made of all files: it only saves time, and is kept by digests, without names."""
    shutil.rmtree(store.root / CACHE / READ_CACHE, ignore_errors=True)


def kept_after(store: ArtifactStore, holders: Sequence[Removal]) -> Iterator[str]:
    """What stays when ``holders`` are deleted although it came from the document or may seem to, and why."""
    if not any(holder.asset in TELLING for holder in holders):
        yield (
            f"cached vectors of its texts: no version is left that shows which; to delete all cached vectors, delete "
            f"{store.root / EMBEDDING_CACHE} (they only save time)"
        )
    versions = {holder.version for holder in holders}
    trained = [each for each in store.versions("checkpoint") if versions & _inputs(store, "checkpoint", each)]
    if trained:
        yield (
            f"{len(trained)} models that were trained on it ({', '.join(trained)}): weights name no document; "
            "`retune gc` deletes those that are neither promoted nor among the newest"
        )
    if others := [asset for asset in OF_OTHER_INPUTS if store.versions(asset)]:
        yield f"{', '.join(others)}: they are made of inputs of their own, not of the corpus"
    yield "samples in the metadata of runs: they stay in the UI until those runs are deleted"


def _texts(store: ArtifactStore, holder: Removal, doc_id: str) -> Iterator[str]:
    if holder.unfinished or holder.asset not in TELLING:
        return
    if holder.asset == "passages":
        yield from _passages(store.get(Passages, holder.asset, holder.version).path, doc_id)
        return
    for record in read_records(store.get(QAPairs, holder.asset, holder.version).records):
        if doc_id in (*record.file_name, *(record.bundle_members or ())):
            yield from _embedded(record)


def _passages(folder: Path, doc_id: str) -> Iterator[str]:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    column: Any = pc.field("doc_id")
    rows: Any = ds.dataset(folder / "passages.parquet").to_table(["text"], filter=column == doc_id)
    yield from rows.column("text").to_pylist()


def _embedded(record: SourceRecord) -> Iterator[str]:
    """Questions are embedded, and passages also without the text of their question."""
    yield from (chunk.text for chunk in record.chunks)
    yield from (pair.question for pair in record.deduplicated_qa_pairs)


def _inputs(store: ArtifactStore, asset: str, version: str) -> set[str]:
    manifest = store.get(Artifact, asset, version).path / MANIFEST
    return set(json.loads(manifest.read_text("utf-8"))["inputs"].values())
