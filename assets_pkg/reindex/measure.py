"""Would full-text search help? The exam taken by vectors, by words, and by both fused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.evaluation.metrics import score_run
from assets_pkg.reindex.reader import FUSION_DEPTH, fuse
from resources.encoders.base import Encoder
from resources.vector_store.base import TEXT_COLUMNS, Hit, index_schema
from resources.vector_store.lance import LanceIndex
from storage.artifacts import EvalSet
from storage.formats.beir import BeirDocument, read_documents, read_qrels, read_queries
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 4096
CUTS = (10, 100)
KINDS = ("vectors", "words", "hybrid")


def measure_search(
    exam: EvalSet, encoder: Encoder, progress: Progress = no_progress
) -> dict[str, dict[str, float]]:
    """Mean metrics (``NDCG@10``...) of each kind of search over the exam's own corpus: ``vectors`` alone, ``words``
    alone (BM25), and ``hybrid``, both by reciprocal rank fusion as in :meth:`IndexReader.search`."""
    qrels = read_qrels(exam.beir)
    queries = [each for each in read_queries(exam.beir) if each.query_id in qrels]
    vectors = encoder.embed([each.text for each in queries], "query")
    runs: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="retune-exam-") as folder:
        index = LanceIndex(Path(folder))
        index.write(_rows(exam, encoder), index_schema(encoder.dimensions))
        for done, (query, vector) in enumerate(zip(queries, vectors, strict=True), start=1):
            near, worded = index.search(vector, FUSION_DEPTH), index.search_text(query.text, FUSION_DEPTH)
            for kind, hits in zip(KINDS, (near, worded, fuse([near, worded])), strict=True):
                runs[kind][query.query_id] = _run(hits)
            progress(done, len(queries), "queries")
    return {kind: score_run(run, qrels, CUTS).means() for kind, run in runs.items()}


def _run(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.doc_id: hit.score for hit in hits[: max(CUTS)]}


def _rows(exam: EvalSet, encoder: Encoder) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    documents = read_documents(exam.beir)
    schema = index_schema(encoder.dimensions)
    while block := list(islice(documents, BLOCK)):
        vectors = encoder.embed([each.joined for each in block], "passage")
        columns: dict[str, Any] = {
            name: pa.array([_text(name, each) for each in block]) for name in TEXT_COLUMNS
        }
        columns["chunk_id"] = pa.array([1] * len(block), pa.int32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), encoder.dimensions
        )
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _text(column: str, document: BeirDocument) -> str:
    """What a column of text holds: titles are part of what is searched, as they are of what is embedded."""
    return {"text": document.joined, "title": document.title, "section": ""}.get(column, document.doc_id)
