"""LanceDB: the embedded vector store. One folder is one index version; nothing in it changes once published.

API: https://lancedb.github.io/lancedb/python/python/ (0.40).
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.language import ENGLISH, language_of, main_language
from resources.vector_store.base import (
    OWN_COLUMNS,
    Hit,
    IndexType,
    VectorStoreError,
    described,
    refused_parameters,
)
from resources.vector_store.condition import refused, tokens, whole
from resources.vector_store.lance_import import import_lancedb
from resources.vector_store.word_forms import STEMMERS, with_other_forms

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

TABLE = "passages"
LANGUAGE_FILE = "language"
SAMPLED = 50
"""Texts of a batch whose language is looked at."""

RESULT_COLUMNS = ["passage_id", "doc_id", "chunk_id", "title", "section", "text"]
_UNEXPECTED = re.compile(r"Expected: \), found: (.+?)(?: at Line: \d+, Column: \d+)?\)")
NOT_METADATA = {*OWN_COLUMNS, "_distance", "_score", "_rowid"}


class LanceIndex:
    """The index in one folder."""

    full_text = True

    def __init__(self, folder: Path):
        self._folder = folder
        self._db: Any = import_lancedb().connect(str(folder))
        self._opened: Any = None

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
        """Write the whole table; a full-text index over the passages comes with it.

        Its words are those of ICU's dictionaries, so that scripts without spaces (Chinese, Japanese, Thai) have words
        too; code names are split at punctuation. Their stems are those of the language that most passages have.
        """
        from lancedb.index import FTS

        # Overwriting a table keeps the old rows as its history: what a killed try wrote would stay for good.
        shutil.rmtree(self._folder / f"{TABLE}.lance", ignore_errors=True)
        languages: Counter[str] = Counter()
        counted = _counting(batches, languages)
        table = self._db.create_table(TABLE, data=counted, schema=schema, mode="overwrite")
        language = main_language(languages)
        config = FTS(base_tokenizer="icu/split", language=STEMMERS.get(language, STEMMERS[ENGLISH]))
        table.create_index("text", config=config)
        (self._folder / LANGUAGE_FILE).write_text(language, "utf-8")
        self._opened = table
        return self.count()

    def optimise(
        self, kind: IndexType, rows: int, dimensions: int, parameters: Mapping[str, int] | None = None
    ) -> str:
        """``ivf``: IVF-PQ with about sqrt(rows) partitions and sub-vectors of about 8 dimensions. ``hnsw``: a graph
        over eight-bit vectors in one partition for each million rows."""
        if kind == "exact":
            return "exact"
        from lancedb.index import HnswSq, IvfPq

        make: Any
        if kind == "ivf":
            name, make = "IVF-PQ", IvfPq
            chosen = {"num_partitions": max(1, round(rows**0.5)), "num_sub_vectors": _subvectors(dimensions)}
        else:
            name, make = "IVF-HNSW-SQ", HnswSq
            chosen = {"num_partitions": max(1, rows // 1_000_000), "m": 20, "ef_construction": 300}
        chosen |= parameters or {}
        try:
            self._table().create_index("vector", config=make(distance_type="dot", **chosen))
        except (TypeError, ValueError, RuntimeError) as error:
            raise refused_parameters(name, chosen, error) from error
        return described(name, chosen)

    def count(self) -> int:
        return int(self._table().count_rows())

    def search(self, vector: NDArray[np.float32], k: int, where: str | None = None) -> list[Hit]:
        """Dot-product search; an approximate index is re-ranked with the full vectors."""
        query = self._table().search(vector, vector_column_name="vector").distance_type("dot")
        query = query.nprobes(32).refine_factor(8).select([*self._columns(), "_distance"]).limit(k)
        # LanceDB's "dot" distance is 1 - dot product.
        return [_hit(row, 1.0 - float(row["_distance"])) for row in self._rows(query, where)]

    def search_text(self, text: str, k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest BM25 score for the words of ``text``."""
        forms = with_other_forms(text, self._language())
        query = self._table().search(forms, query_type="fts").select([*self._columns(), "_score"]).limit(k)
        return [_hit(row, float(row["_score"])) for row in self._rows(query, where)]

    def exists(self) -> bool:
        return (self._folder / f"{TABLE}.lance").exists()

    def holds(self, doc_id: str) -> bool:
        """Whether a passage of the document is in the index."""
        quoted = doc_id.replace("'", "''")
        return int(self._table().count_rows(f"doc_id = '{quoted}'")) > 0

    def passages_of(self, doc_id: str, first: int, last: int) -> list[Hit]:
        quoted = doc_id.replace("'", "''")
        condition = f"doc_id = '{quoted}' AND chunk_id BETWEEN {first:d} AND {last:d}"
        rows = (
            self._table().search().where(condition).select(self._columns()).limit(last - first + 1).to_list()
        )
        return sorted((_hit(row, 0.0) for row in rows), key=lambda hit: hit.chunk_id)

    def activate(self) -> None:
        """Nothing to do: the link to the folder is the switch."""

    def is_active(self) -> bool:
        return True

    def drop(self) -> None:
        """Nothing to do: all of it is in the folder."""

    def _rows(self, query: Any, where: str | None) -> list[dict[str, Any]]:
        if not where:
            return query.to_list()
        condition = whole(where)
        try:
            return query.where(condition, prefilter=True).to_list()
        except (ValueError, RuntimeError) as error:
            raise self._explain(where, str(error).splitlines()[0]) from error

    def _explain(self, where: str, reason: str) -> VectorStoreError:
        """The error of a condition that LanceDB refuses. Its parser names the word that should not be there, but not
        its place: that is where a condition ends."""
        unexpected = _UNEXPECTED.search(reason)
        if unexpected is not None:
            for token in tokens(where):
                if token[0] == unexpected[1] and self._understands(where[: token.start()]):
                    return refused(where, token.start(), "the condition ends before this")
        return VectorStoreError(f"filter {where!r}: {reason}")

    def _understands(self, where: str) -> bool:
        try:
            self._table().search().where(whole(where)).limit(1).to_list()
        except (ValueError, RuntimeError, VectorStoreError):
            return False
        return True

    def _language(self) -> str:
        """The language of the full-text index; English for one that an earlier version of Retune wrote."""
        path = self._folder / LANGUAGE_FILE
        return path.read_text("utf-8") if path.exists() else ENGLISH

    def _columns(self) -> list[str]:
        """What a search returns: all but the vector and the row's own name."""
        return [name for name in self._table().schema.names if name not in ("vector", "row_id")]

    def _table(self) -> Any:
        if self._opened is None:
            self._opened = self._db.open_table(TABLE)
        return self._opened


def _counting(batches: Iterable[pa.RecordBatch], languages: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The batches; the languages of some texts of each are counted meanwhile."""
    for batch in batches:
        rows: Any = batch
        texts = rows.column("text").to_pylist()[:: max(1, len(batch) // SAMPLED)]
        languages.update(map(language_of, texts))
        yield batch


def _subvectors(dimensions: int) -> int:
    """Parts of equal size, of 8 dimensions or a little more."""
    return next(count for count in range(max(1, dimensions // 8), 0, -1) if dimensions % count == 0)


def _hit(row: dict[str, Any], score: float) -> Hit:
    metadata = {name: row[name] for name in row if name not in NOT_METADATA and row[name] is not None}
    return Hit(score=score, metadata=metadata, **{name: row[name] for name in RESULT_COLUMNS})
