# pyright: reportMissingTypeStubs=false
"""Milvus: a vector store for teams, at a server's URI; a local file is Milvus Lite, the same engine embedded.

One collection is one index version; an alias, one for each project, names the version that is served.
API: https://milvus.io/api-reference/pymilvus/ (3.0).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resources.endpoints import is_loopback
from resources.language import ENGLISH
from resources.vector_store.base import (
    OWN_COLUMNS,
    Hit,
    IndexType,
    VectorStoreError,
    described,
    refused_parameters,
)
from resources.vector_store.condition import whole
from resources.vector_store.milvus_collection import BM25, STEMS, collection_schema, request_parts, with_stems
from resources.vector_store.word_forms import stems, with_other_forms

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

RESULT_COLUMNS = ["passage_id", "doc_id", "chunk_id", "title", "section", "text"]
PROJECT, ROOT, LANGUAGES = "retune.project", "retune.artifact_root", "retune.languages"
"""Properties of a collection: its owner, and the languages of its passages."""

_SQL = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|<>|[<>!=]=|=|\bin\s*\(|[()]""", re.IGNORECASE)


@dataclass(frozen=True)
class Owner:
    """The project that owns an index: ``project`` is its unique id, ``root`` the location of its store, for
    messages, and ``alias`` names the version that its readers outside Retune see."""

    project: str
    root: str
    alias: str


def _grpc_options(uri: str) -> dict[str, int]:
    """gRPC takes a proxy of the environment even towards this machine, and passages must not go there."""
    host = urlsplit(uri).hostname
    return {} if host and not is_loopback(host) else {"grpc.enable_http_proxy": 0}


class MilvusIndex:
    """The index in one collection of the Milvus at ``uri``.

    Args:
        uri: ``http://host:19530``, or the path of a local ``.db`` file.
        token: ``user:password`` or an API key; empty for none. It is never shown.
        owner: who writes, activates and drops it; readers need none.

    Raises:
        VectorStoreError: no Milvus answers there.
    """

    def __init__(self, uri: str, collection: str, token: str = "", owner: Owner | None = None):
        from pymilvus import MilvusClient, MilvusException

        # It logs every refusal with a traceback before it raises it.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.collection = collection
        self._owner = owner
        try:
            self._client: Any = MilvusClient(uri, token=token, grpc_options=_grpc_options(uri))
        except (MilvusException, ValueError) as error:
            raise VectorStoreError(
                f"no Milvus answers at {uri}: start it, or correct reindex.milvus_uri"
            ) from error

    @property
    def full_text(self) -> bool:
        """No for a collection that an earlier version of Retune wrote."""
        return BM25 in self._fields

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
        """Write the whole collection; nothing is touched where the alias is another project's.

        The server gets stems besides the passages, each by its passage's language: what analyzers there are, and for
        which languages, differs between Milvus and Milvus Lite.
        """
        owner = self._writer()
        self._check_alias(owner)
        rows, languages = 0, set[str]()
        with self._asked("write"):
            if self._client.has_collection(self.collection):
                self._client.drop_collection(self.collection)
            properties = {PROJECT: owner.project, ROOT: owner.root}
            self._client.create_collection(
                self.collection, schema=collection_schema(schema), properties=properties
            )
            for part in (part for batch in batches for part in request_parts(batch)):
                sent, found = with_stems(part.to_pylist())
                languages |= found
                # Counted here: a server counts the rows of loaded collections only.
                rows += int(self._client.insert(self.collection, sent)["insert_count"])
            self._client.flush(self.collection)
            self._client.alter_collection_properties(
                self.collection, {LANGUAGES: ",".join(sorted(languages))}
            )
        return rows

    def optimise(
        self, kind: IndexType, rows: int, dimensions: int, parameters: Mapping[str, int] | None = None
    ) -> str:
        """``ivf``: IVF_FLAT with about 4 sqrt(rows) lists. ``hnsw``: M = 16 and efConstruction = 200."""
        from pymilvus import MilvusException

        kinds: dict[IndexType, tuple[str, dict[str, int]]] = {
            "exact": ("FLAT", {}),
            "ivf": ("IVF_FLAT", {"nlist": max(1, min(65_536, round(4 * rows**0.5)))}),
            "hnsw": ("HNSW", {"M": 16, "efConstruction": 200}),
        }
        name, chosen = kinds[kind]
        chosen = {**chosen, **(parameters or {})} if kind != "exact" else {}
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type=name, metric_type="IP", params=chosen)
        index.add_index(BM25, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        try:
            self._client.create_index(self.collection, index)
        except MilvusException as error:
            raise refused_parameters(name, chosen, error) from error
        with self._asked("load"):
            self._client.load_collection(self.collection)
        return "exact" if kind == "exact" else described(name, chosen)

    def count(self) -> int:
        """The number of rows, once :meth:`optimise` has loaded them."""
        with self._asked("count"):
            # What was written a moment ago counts too.
            answer = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(answer[0]["count(*)"])

    def exists(self) -> bool:
        with self._asked("find"):
            return bool(self._client.has_collection(self.collection))

    def holds(self, doc_id: str) -> bool:
        if not self.exists():
            return False
        quoted = doc_id.replace("\\", "\\\\").replace("'", "\\'")
        with self._asked("search"):
            found = self._client.query(
                self.collection, filter=f"doc_id == '{quoted}'", output_fields=["doc_id"], limit=1
            )
        return len(found) > 0

    def passages_of(self, doc_id: str, first: int, last: int) -> list[Hit]:
        quoted = doc_id.replace("\\", "\\\\").replace("'", "\\'")
        with self._asked("search"):
            rows = self._client.query(
                self.collection,
                filter=f"doc_id == '{quoted}' and chunk_id >= {first:d} and chunk_id <= {last:d}",
                output_fields=[*RESULT_COLUMNS, *self._own],
                limit=last - first + 1,
            )
        return sorted((self._hit(row, 0.0) for row in rows), key=lambda hit: hit.chunk_id)

    def drop(self) -> None:
        """Drop the collection, and the alias if it still names this version."""
        if not self.exists():
            return
        with self._asked("drop"):
            if self._owner is not None and self._aliased(self._owner.alias) == self.collection:
                self._client.drop_alias(self._owner.alias)
            self._client.drop_collection(self.collection)

    def search(self, vector: NDArray[np.float32], k: int, where: str | None = None) -> list[Hit]:
        return self._search(
            "vector", vector.tolist(), k, where, {"metric_type": "IP", "params": self._effort(k)}
        )

    def search_text(self, text: str, k: int, where: str | None = None) -> list[Hit]:
        """The ``k`` passages with the highest BM25 score for the words of ``text``, each stemmed as in every language
        of the index."""
        if not self.full_text:
            raise VectorStoreError(
                f"the collection {self.collection} has no full-text index: an earlier version of Retune wrote it; run "
                "`retune run --force reindex`, or search with --method dense"
            )
        forms = " ".join(dict.fromkeys(with_other_forms(text, language) for language in self._languages))
        words = dict.fromkeys(stems(forms, self._languages))
        if not words:
            return []
        return self._search(BM25, " ".join(words), k, where, {"metric_type": "BM25"})

    def _search(
        self, field: str, query: Any, k: int, where: str | None, parameters: Mapping[str, Any]
    ) -> list[Hit]:
        from pymilvus import MilvusException

        condition = from_sql(whole(where, backslash_escapes=True)) if where else ""
        try:
            found = self._client.search(
                self.collection,
                [query],
                anns_field=field,
                limit=k,
                filter=condition,
                output_fields=[*RESULT_COLUMNS, *self._own],
                search_params=dict(parameters),
            )
        except MilvusException as error:
            raise VectorStoreError(
                f"Milvus refused the search (filter {where!r}): {error.message}"
            ) from error
        # Milvus Lite gives BM25 scores as distances below zero.
        return [
            self._hit(row["entity"], abs(float(row["distance"])) if field == BM25 else float(row["distance"]))
            for row in found[0]
        ]

    def activate(self) -> None:
        """Point the alias at this collection: one step, so that readers see the old one or this one whole.

        Raises:
            VectorStoreError: it is another project's alias.
        """
        owner = self._writer()
        self._check_alias(owner)
        with self._asked("activate"):
            if self._aliased(owner.alias) is None:
                self._client.create_alias(self.collection, owner.alias)
            else:
                self._client.alter_alias(self.collection, owner.alias)

    def is_active(self) -> bool:
        owner = self._writer()
        with self._asked("look for the alias of"):
            return self._aliased(owner.alias) == self.collection

    def _writer(self) -> Owner:
        if self._owner is None:
            raise VectorStoreError(f"the collection {self.collection} was opened only for reading")
        return self._owner

    def _check_alias(self, owner: Owner) -> None:
        """Refuse an alias that names a collection of another project, or of none."""
        with self._asked("look for the alias of"):
            named = self._aliased(owner.alias)
            if named is None:
                return
            properties: dict[str, str] = self._client.describe_collection(named).get("properties") or {}
        if properties.get(PROJECT) != owner.project:
            whose = f"of the project at {properties[ROOT]}" if ROOT in properties else "not made by Retune"
            raise VectorStoreError(
                f"the alias {owner.alias} on this Milvus names {named}, {whose}: set reindex.milvus_collection to "
                "another name, or drop that alias if it is no longer needed"
            )

    def _aliased(self, alias: str) -> str | None:
        """The collection that an alias names, if there is such an alias."""
        if alias not in self._client.list_aliases()["aliases"]:
            return None
        return str(self._client.describe_alias(alias)["collection_name"])

    @contextmanager
    def _asked(self, what: str) -> Generator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise VectorStoreError(
                f"Milvus refused to {what} collection {self.collection}: {error.message}"
            ) from error

    @cached_property
    def _described(self) -> dict[str, Any]:
        return self._client.describe_collection(self.collection)

    @cached_property
    def _fields(self) -> list[str]:
        return [field["name"] for field in self._described["fields"]]

    @cached_property
    def _languages(self) -> list[str]:
        properties: dict[str, str] = self._described.get("properties") or {}
        return properties.get(LANGUAGES, ENGLISH).split(",")

    @cached_property
    def _own(self) -> list[str]:
        """The user's own columns."""
        return [name for name in self._fields if name not in (*OWN_COLUMNS, STEMS, BM25)]

    @cached_property
    def _kind(self) -> str:
        """Milvus's name of the vector index."""
        return str(self._client.describe_index(self.collection, "vector")["index_type"])

    def _effort(self, k: int) -> dict[str, int]:
        """How much of an approximate index is looked through: lists, or candidates along the graph."""
        return {"IVF_FLAT": {"nprobe": 64}, "HNSW": {"ef": max(64, 2 * k)}}.get(self._kind, {})

    def _hit(self, entity: dict[str, Any], score: float) -> Hit:
        metadata = {name: _listed(entity[name]) for name in self._own if entity.get(name) is not None}
        return Hit(score=score, metadata=metadata, **{name: entity[name] for name in RESULT_COLUMNS})


def from_sql(where: str) -> str:
    """A condition in SQL in Milvus's syntax: ``==`` for ``=``, ``!=`` for ``<>``, brackets for the list after ``IN``,
    and a quote inside a text behind a backslash. Milvus's own syntax is kept."""
    closing: list[str] = []

    def translate(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == "'":
            return "'" + token[1:-1].replace("''", "\\'") + "'"
        if token[0] in "iI":
            closing.append("]")
            return "in ["
        if token == "(":
            closing.append(")")
        elif token == ")" and closing:
            return closing.pop()
        return {"=": "==", "<>": "!="}.get(token, token)

    return _SQL.sub(translate, where)


def _listed(value: Any) -> Any:
    """Plain lists for the client's own kind of list."""
    return value if isinstance(value, str | int | float | bool) else list(value)
