"""The documents that pairs are generated for, one by one or in bundles, as numbered segments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import Any

import yaml

from assets_pkg.config.sections.sdg import BundleSettings
from storage.artifacts import Corpus, Document, Passage, Passages
from storage.errors import RetuneError
from storage.formats.qa_records import Chunk

DOCUMENT_BOUNDARY = "\n\n=== Document Boundary ===\n\n"


class ManifestError(RetuneError, ValueError):
    """A bundle manifest that cannot be used; the message names file, entry and what is wrong."""


@dataclass(frozen=True)
class DocumentPassages:
    """A document with its passages in order."""

    document: Document
    passages: list[Passage]


@dataclass(frozen=True)
class SourceDocument:
    """A document or a bundle. ``chunks`` are numbered from 1 through all its documents; ``sections`` are the chunk ids
    in the order of the prompt."""

    source_id: str
    file_names: list[str]
    text: str
    chunks: list[Chunk]
    sections: list[list[int]]
    bundled: bool

    def prompt_text(self) -> str:
        """All segments, section by section, as prompts contain them."""
        blocks = []
        for number, ids in enumerate(self.sections, start=1):
            blocks.append("\n".join([f"=== Section {number} ===", *(self.segment(one) for one in ids)]))
        return "\n\n".join(blocks)

    def segment(self, chunk_id: int) -> str:
        """One segment with its number, and its document in a bundle."""
        chunk = self.chunks[chunk_id - 1]
        label = f" [Doc: {chunk.doc_id}]" if self.bundled else ""
        return f"Segment {chunk_id}{label}: {chunk.text}"


def read_sources(corpus: Corpus, passages: Passages, settings: BundleSettings) -> Iterator[SourceDocument]:
    """Documents or bundles in corpus order, one in memory at a time. Documents without passages are left out.

    Raises:
        ManifestError: the manifest is unreadable, or names a document that the corpus does not have.
    """
    documents = _documents(corpus, passages)
    for bundle in _bundles(documents, settings):
        yield _source(bundle, settings)


def count_sources(corpus: Corpus, settings: BundleSettings) -> int:
    """The maximal number of sources."""
    import pyarrow.parquet as pq

    documents = pq.read_metadata(corpus.path / "documents.parquet").num_rows
    if not settings.multi_doc:
        return documents
    if settings.multi_doc_manifest is not None:
        return len(_read_manifest(Path(settings.multi_doc_manifest), settings.max_docs_per_bundle))
    return -(-documents // settings.bundle_size)


def _documents(corpus: Corpus, passages: Passages) -> Iterator[DocumentPassages]:
    """Documents with their passages. Both artifacts are in document order, so one pass over each joins them."""
    grouped = groupby(passages.passages(), key=lambda passage: passage.doc_id)
    doc_id, rows = next(grouped, (None, iter(())))
    for document in corpus.documents():
        if document.doc_id == doc_id:
            yield DocumentPassages(document, list(rows))
            doc_id, rows = next(grouped, (None, iter(())))


def _bundles(
    documents: Iterator[DocumentPassages], settings: BundleSettings
) -> Iterator[list[DocumentPassages]]:
    if not settings.multi_doc:
        yield from ([document] for document in documents)
    elif settings.multi_doc_manifest is None:
        while bundle := list(islice(documents, settings.bundle_size)):
            yield bundle
    else:
        yield from _named_bundles(documents, Path(settings.multi_doc_manifest), settings.max_docs_per_bundle)


def _named_bundles(
    documents: Iterator[DocumentPassages], manifest: Path, maximum: int
) -> Iterator[list[DocumentPassages]]:
    bundles = _read_manifest(manifest, maximum)
    wanted = set(chain.from_iterable(bundles))
    found = {each.document.doc_id: each for each in documents if each.document.doc_id in wanted}
    missing = sorted(wanted - found.keys())
    if missing:
        raise ManifestError(f"{manifest}: not in the corpus, or without passages: {', '.join(missing[:10])}")
    yield from ([found[doc_id] for doc_id in bundle] for bundle in bundles)


def _read_manifest(path: Path, maximum: int) -> list[list[str]]:
    """A list of bundles in YAML or JSON: each a list of document paths, or ``{docs: [...]}``."""
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ManifestError(f"{path}: not readable as YAML or JSON: {error}") from error
    if isinstance(entries, dict):
        entries = entries.get("bundles")
    if not isinstance(entries, list) or not entries:
        raise ManifestError(f"{path}: must be a list of bundles")
    return [
        _bundle(entry, f"{path}: bundle {number}", maximum) for number, entry in enumerate(entries, start=1)
    ]


def _bundle(entry: Any, where: str, maximum: int) -> list[str]:
    docs = entry.get("docs") if isinstance(entry, dict) else entry
    if not isinstance(docs, list) or not docs or not all(isinstance(doc, str) for doc in docs):
        raise ManifestError(f"{where}: must be a list of document paths, or {{docs: [...]}}")
    if len(set(docs)) < len(docs):
        raise ManifestError(f"{where}: names a document twice")
    if len(docs) > maximum:
        raise ManifestError(f"{where}: has {len(docs)} documents, more than max_docs_per_bundle = {maximum}")
    return docs


def _source(members: list[DocumentPassages], settings: BundleSettings) -> SourceDocument:
    names = [member.document.doc_id for member in members]
    chunks = list(_chunks(members))
    order = _order(chunks, settings.bundle_strategy)
    if settings.bundle_strategy == "doc_balanced":
        sections = _balanced(chunks, settings.num_sections)
    else:
        sections = list(_split(order, settings.num_sections))
    return SourceDocument(
        source_id=names[0] if len(members) == 1 else bundle_id(names),
        file_names=names,
        text=DOCUMENT_BOUNDARY.join(member.document.text for member in members),
        chunks=chunks,
        sections=sections,
        bundled=len(members) > 1,
    )


def bundle_id(names: Iterable[str]) -> str:
    """The recipe's id of a bundle: 16 hex digits of the MD5 of its sorted paths joined by ``||``."""
    return hashlib.md5("||".join(sorted(names)).encode(), usedforsecurity=False).hexdigest()[:16]


def _chunks(members: list[DocumentPassages]) -> Iterator[Chunk]:
    number = 0
    for member in members:
        for index, passage in enumerate(member.passages):
            number += 1
            several: dict[str, Any] = {}
            if len(members) > 1:
                several = {"doc_id": member.document.doc_id, "doc_path": member.document.doc_id}
            yield Chunk(
                text=passage.text,
                chunk_id=number,
                start=passage.start,
                end=passage.end,
                sentence_count=passage.sentence_count,
                word_count=passage.word_count,
                doc_chunk_index=index,
                **several,
            )


def _order(chunks: list[Chunk], strategy: str) -> list[int]:
    """Chunk ids in document order, or alternating between the documents."""
    if strategy != "interleaved":
        return [chunk.chunk_id for chunk in chunks]
    rounds = zip_longest(*_by_document(chunks))
    return [chunk_id for ids in rounds for chunk_id in ids if chunk_id is not None]


def _balanced(chunks: list[Chunk], sections: int) -> list[list[int]]:
    """Sections that each have an equal share of every document."""
    shares = [list(_split(ids, sections, keep_empty=True)) for ids in _by_document(chunks)]
    joined = [list(chain.from_iterable(share)) for share in zip(*shares, strict=True)]
    return [ids for ids in joined if ids]


def _by_document(chunks: list[Chunk]) -> list[list[int]]:
    groups = groupby(chunks, key=lambda chunk: chunk.doc_id)
    return [[chunk.chunk_id for chunk in group] for _, group in groups]


def _split(ids: list[int], count: int, *, keep_empty: bool = False) -> Iterator[list[int]]:
    """``ids`` in ``count`` runs whose lengths differ by at most one."""
    for number in range(count):
        run = ids[len(ids) * number // count : len(ids) * (number + 1) // count]
        if run or keep_empty:
            yield run
