"""Is a freshly built index fit to be searched? Asked before search switches to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resources.vector_store.base import PassageIndex
from storage.artifacts import CorpusEmbeddings, Passages
from storage.vectors import leading

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SAMPLE = 64
TOP = 10
BLOCK = 16_384
UNIT_TOLERANCE = 1e-3
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """What was found; ``recall`` is the share of the exact top 10 that the index finds, over a sample."""

    rows: int
    passages: int
    bad_vectors: int
    recall: float

    def problems(self, min_recall: float) -> list[str]:
        """Why the index must not be searched; empty when it may."""
        found: list[str] = []
        if self.rows != self.passages:
            found.append(f"{self.rows} rows for {self.passages} passages")
        if self.bad_vectors:
            found.append(f"{self.bad_vectors} vectors are not finite or not of unit length")
        if self.recall < min_recall:
            found.append(f"recall@{TOP} against exact search is {self.recall:.3f}, below {min_recall:g}")
        return found


def verify_index(
    index: PassageIndex, passages: Passages, embeddings: CorpusEmbeddings, dimensions: int
) -> Verdict:
    """Count rows, look at every vector, and compare searches with exact ones (queries: vectors of the corpus)."""
    import numpy as np

    queries = leading(_sample(embeddings), dimensions)
    best = np.full((len(queries), TOP), -np.inf, dtype=np.float32)
    bad = 0
    for block in _blocks(embeddings):
        norms = np.linalg.norm(block, axis=1)
        bad += int((~(np.abs(norms - 1) <= UNIT_TOLERANCE)).sum())
        scores = np.concatenate([best, queries @ leading(block, dimensions).T], axis=1)
        # Partitioning negatives leaves what is no number behind everything that is one.
        best = -np.partition(-scores, TOP - 1, axis=1)[:, :TOP]
    best = -np.sort(-best, axis=1)
    reached = found = 0
    for query, exact in zip(queries, best, strict=True):
        wanted = exact[np.isfinite(exact)]
        hits = [hit.score for hit in index.search(query, TOP)]
        reached += min(len(wanted), sum(score >= wanted[-1] - SCORE_TOLERANCE for score in hits))
        found += len(wanted)
    return Verdict(index.count(), passages.count(), bad, reached / found if found else 1.0)


def _sample(embeddings: CorpusEmbeddings) -> np.ndarray:
    """Vectors evenly through the corpus, float32 [at most SAMPLE, d]; only the row groups that hold them are read."""
    import numpy as np
    import pyarrow.parquet as pq

    taken: list[np.ndarray] = []
    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        step = max(1, file.metadata.num_rows // SAMPLE)
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            wanted = range(-start % step, rows, step)
            if wanted:
                vectors = _matrix(
                    file.read_row_group(group, columns=["vector"]).combine_chunks().to_batches()[0]
                )
                taken.append(vectors[wanted])
            start += rows
    return np.concatenate(taken)[:SAMPLE]


def _blocks(embeddings: CorpusEmbeddings) -> Iterator[np.ndarray]:
    """Vectors, float32 [block, d]."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(embeddings.path / "embeddings.parquet") as file:
        for batch in file.iter_batches(batch_size=BLOCK, columns=["vector"]):
            yield _matrix(batch)


def _matrix(batch: pa.RecordBatch) -> np.ndarray:
    column: Any = batch.column("vector")
    return column.flatten().to_numpy().reshape(len(batch), -1)
