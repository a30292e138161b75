# pyright: reportMissingTypeStubs=false
"""What a Milvus collection is made of: its fields, and its rows in requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resources.language import language_of, main_language
from resources.vector_store.base import OWN_COLUMNS, TEXT_COLUMNS
from resources.vector_store.word_forms import stems

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_TEXT_BYTES = 65_535
"""Milvus's own limit of a VARCHAR field."""

LONGEST_LIST = 4096
"""Milvus's own limit of an ARRAY field."""

REQUEST_BYTES = 16 * 2**20
"""Of rows sent at once: a server takes 64 MB in one message unless configured otherwise."""

STEMS, BM25 = "retune_stems", "retune_bm25"
"""Fields for full-text search: the stems of the passage's words, and what Milvus computes of them."""

ANALYZER = {"tokenizer": "standard", "filter": ["lowercase"]}
"""Takes the stems apart at blanks."""


def collection_schema(wanted: pa.Schema) -> Any:
    """The fields of a collection for the table ``wanted``: its columns, and those for full-text search."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    types: list[Any] = wanted.types
    columns = dict(zip(wanted.names, types, strict=True))
    client: Any = MilvusClient
    schema = client.create_schema(auto_id=False)
    for name in TEXT_COLUMNS:
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT_BYTES, is_primary=name == "row_id")
    schema.add_field("chunk_id", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=columns["vector"].list_size)
    text = {"max_length": LONGEST_TEXT_BYTES}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "string": (DataType.VARCHAR, text),
        "int64": (DataType.INT64, {}),
        "double": (DataType.DOUBLE, {}),
        "bool": (DataType.BOOL, {}),
    }
    list_of_texts = {"element_type": DataType.VARCHAR, "max_capacity": LONGEST_LIST, **text}
    for name, column in columns.items():
        if name not in OWN_COLUMNS:
            kind, limits = kinds.get(str(column), (DataType.ARRAY, list_of_texts))
            schema.add_field(name, kind, nullable=True, **limits)
    schema.add_field(STEMS, DataType.VARCHAR, enable_analyzer=True, analyzer_params=ANALYZER, **text)
    schema.add_field(BM25, DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name=BM25,
            function_type=FunctionType.BM25,
            input_field_names=[STEMS],
            output_field_names=[BM25],
        )
    )
    return schema


def with_stems(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], set[str]]:
    """The rows with the field of stems, and the languages that it is in: each passage's own, and that of most, since
    a short one's is not sure. Of a passage with more stems than a field holds, the first are kept."""
    own = [language_of(row["text"]) for row in rows]
    main = main_language(Counter(own))
    for row, language in zip(rows, own, strict=True):
        written = " ".join(stems(row["text"], {language, main})).encode()[:LONGEST_TEXT_BYTES]
        row[STEMS] = written.decode(errors="ignore")
    return rows, {*own, main}


def request_parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows in parts of at most ``REQUEST_BYTES``, or of one row."""
    half = batch.num_rows // 2
    if not half or batch.nbytes <= REQUEST_BYTES:
        yield batch
        return
    yield from request_parts(batch.slice(0, half))
    yield from request_parts(batch.slice(half))
