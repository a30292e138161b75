"""The search index of one model over one corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.reindex import ReindexSettings
from assets_pkg.corpus.metadata import FieldTypes
from resources.vector_store.base import OWN_COLUMNS, FieldType, IndexType, PassageIndex, index_schema
from storage.artifact_store import ArtifactStore
from storage.artifacts import CorpusEmbeddings, Passages, VectorIndex
from storage.digests import digest_json
from storage.errors import RetuneError
from storage.files import write_json
from storage.vectors import truncate

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 4096
INDEX_MANIFEST = "index.json"
LOCATION_FILE = "place.json"
"""Where an unfinished index is; the manifest holds it under ``place``."""


class IndexMismatch(RetuneError):
    """Passages and embeddings do not belong together."""


def build_index(
    passages: Passages,
    embeddings: CorpusEmbeddings,
    settings: ReindexSettings,
    folder: Path,
    store: ArtifactStore,
) -> None:
    """Write the index and its manifest ``index.json`` from passages and their vectors.

    ``settings.dimensions`` keeps the leading components and renormalises (Matryoshka embeddings). An approximate
    index is built beside the vectors where :func:`index_type` says so. On a server the index is
    registered as belonging to the project of ``store``. What an interrupted run had completed is left unchanged.

    Raises:
        IndexMismatch: passages and embeddings do not belong together.
        VectorStoreError: the server refuses, or its alias belongs to another project.
    """
    if (folder / INDEX_MANIFEST).exists():  # written last
        return
    described = embeddings.describe()
    if described["passages"] != passages.version:
        raise IndexMismatch(
            f"embeddings are of passages {described['passages']}, not of {passages.version}: "
            "materialize corpus_embeddings and vector_index again"
        )
    dimensions = min(settings.dimensions or described["dimensions"], described["dimensions"])
    location = _location(settings, embeddings, store)
    # So that what an unfinished build leaves on a server can be found.
    write_json(folder / LOCATION_FILE, location, indent=None, ensure_ascii=True)
    index = open_index(folder, location)
    fields = field_types(passages)
    schema = index_schema(dimensions, fields)
    rows = index.write(_batches(passages, embeddings, schema), schema)
    kind = index.optimise(index_type(settings, rows), rows, dimensions, settings.index_parameters)
    manifest = {
        "schema_version": 1,
        "model_digest": described["model_digest"],
        "encoder": described["encoder"],
        "contract": described["contract"],
        "passages": passages.version,
        "dimensions": dimensions,
        "metadata_fields": fields,
        "rows": rows,
        "index": kind,
        "place": location,
    }
    write_json(folder / INDEX_MANIFEST, manifest, ensure_ascii=True, sort_keys=True)
    (folder / LOCATION_FILE).unlink()


def index_type(settings: ReindexSettings, rows: int) -> IndexType:
    """The type that is set; for ``auto`` exact search below ``exact_below`` rows, and above the approximate index that
    suits the store."""
    if settings.index_type != "auto":
        return settings.index_type
    if rows < settings.exact_below:
        return "exact"
    return "ivf" if settings.store == "lancedb" else "hnsw"


def open_index(folder: Path, location: dict[str, Any]) -> PassageIndex:
    """The index of one version: in its own ``folder``, or on the server that its manifest's ``place`` names.

    Raises:
        VectorStoreError: the server that holds it cannot be reached.
    """
    if location["store"] == "milvus":
        from resources.vector_store.milvus import MilvusIndex, Owner

        owner = Owner(**location["owner"]) if "owner" in location else None
        token = os.environ.get(location["token_env"], "")
        return MilvusIndex(location["uri"], location["collection"], token, owner)
    from resources.vector_store.lance import LanceIndex

    return LanceIndex(folder / "lancedb")


def index_in(folder: Path) -> PassageIndex | None:
    """The index of the version, or of the unfinished build, in ``folder``; None if there is none.

    Raises:
        VectorStoreError: the server that holds it cannot be reached.
    """
    if (folder / INDEX_MANIFEST).exists():
        return open_index(folder, json.loads((folder / INDEX_MANIFEST).read_text("utf-8"))["place"])
    if (folder / LOCATION_FILE).exists():
        return open_index(folder, json.loads((folder / LOCATION_FILE).read_text("utf-8")))
    return None


def is_lost(index: VectorIndex) -> bool:
    """Whether the server no longer has the index. (The artifact store checks the files in a version's own folder.)

    Raises:
        VectorStoreError: the server cannot be reached.
    """
    location = index.describe()["place"]
    return location["store"] == "milvus" and not open_index(index.path, location).exists()


def _location(
    settings: ReindexSettings, embeddings: CorpusEmbeddings, store: ArtifactStore
) -> dict[str, Any]:
    if settings.store == "lancedb":
        return {"store": "lancedb"}
    project, name = store.identity(), settings.milvus_collection
    return {
        "store": "milvus",
        "uri": settings.milvus_uri,
        # With the project: another one may index the same corpus with the same model, and drop its own collection.
        "collection": f"{name}_{digest_json([project, embeddings.version, settings.digest()])}",
        "owner": {"project": project, "root": store.location, "alias": f"{name}_current"},
        "token_env": settings.milvus_token_env,
    }


def field_types(passages: Passages) -> dict[str, FieldType]:
    """The user's own columns, by name."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    types = FieldTypes()
    with pq.ParquetFile(passages.path / "passages.parquet") as file:
        for batch in file.iter_batches(columns=["doc_id", "metadata"]):
            distinct: Any = pc.unique(batch.column("metadata"))
            for metadata in distinct.to_pylist():
                types.add(metadata, str(passages.path))
    return dict(sorted(types.types.items()))


def _batches(passages: Passages, embeddings: CorpusEmbeddings, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dimensions = schema.field("vector").type.list_size
    fields = [name for name in schema.names if name not in OWN_COLUMNS]
    with (
        pq.ParquetFile(passages.path / "passages.parquet") as texts,
        pq.ParquetFile(embeddings.path / "embeddings.parquet") as vectors,
    ):
        pairs = zip(
            texts.iter_batches(batch_size=ROWS_AT_ONCE),
            vectors.iter_batches(batch_size=ROWS_AT_ONCE),
            strict=True,
        )
        for rows, embedded in pairs:
            stored: Any = embedded.column("vector")
            matrix = truncate(stored.flatten().to_numpy().reshape(len(rows), -1), dimensions)
            ids = [
                f"{doc}#{chunk}"
                for doc, chunk in zip(
                    rows.column("doc_id").to_pylist(), rows.column("chunk_id").to_pylist(), strict=True
                )
            ]
            encoded: Any = rows.column("metadata").to_pylist()
            metadata = [json.loads(each) for each in encoded]
            columns = {
                **{
                    name: pa.array([each.get(name) for each in metadata], schema.field(name).type)
                    for name in fields
                },
                "row_id": pa.array(ids),
                **{name: rows.column(name) for name in ("passage_id", "doc_id", "title", "section", "text")},
                "chunk_id": rows.column("chunk_id").cast(pa.int32()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dimensions),
            }
            yield pa.record_batch([columns[name] for name in schema.names], schema=schema)
