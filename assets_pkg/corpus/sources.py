"""The raw corpus: chooses the source that ``corpus_dir`` names, reads it, and detects changes of it."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from pathlib import Path

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, DocumentSource, Skipped
from assets_pkg.corpus.local_folder import LocalFolder
from assets_pkg.corpus.metadata import FieldTypes
from assets_pkg.corpus.pydoc import PYDOC, StdlibSource
from assets_pkg.corpus.remote_folder import HubFolder, RemoteFolder
from storage.artifacts import Document
from storage.files import write_json
from storage.parquet import RowWriter
from storage.progress import Progress, no_progress

__all__ = ["CorpusError", "check_source", "read_corpus", "seconds_since_change", "source_fingerprint"]

NAMED_IN_ERROR = 5

CLOCKS_DIFFER_SECONDS = 60.0
"""How far the clock of a file server may be ahead."""

_URL = re.compile(r"[a-z][a-z0-9+.\-]+://", re.IGNORECASE)


def check_source(settings: CorpusSettings) -> None:
    """Check that there is something to read, without a network: remote sources are not asked.

    Raises:
        CorpusError: the source is missing, empty or of an unknown kind.
    """
    source = _source(settings)
    if not isinstance(source, RemoteFolder) and not len(source):
        raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: {source.describe_empty()}")


def read_corpus(settings: CorpusSettings, folder: Path, progress: Progress = no_progress) -> None:
    """Write ``documents.parquet``, ``skipped.json`` and ``summary.json`` into ``folder``.

    ``skipped.json`` is a list of ``{doc_id, reason}``: documents, then rows of the metadata file; the summary
    has the numbers of documents and characters, of skipped documents by kind of reason, of metadata rows without a
    document, of files that are no documents by extension, and the ``fingerprint`` of the bytes that were read.

    Raises:
        CorpusError: the source is missing, empty or of an unknown kind, every document was skipped, or the user's
            own fields cannot be columns of one table.
    """
    source = _source(settings)
    if not len(source):
        raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: {source.describe_empty()}")
    documents = characters = 0
    skipped: list[Skipped] = []
    digests: list[tuple[str, str]] = []
    fields = FieldTypes()
    with RowWriter(folder / "documents.parquet", Document) as writer:
        for done, (item, digest) in enumerate(source.read(), start=1):
            digests.append((item.doc_id, digest))
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                writer.add(item)
                fields.add(item.metadata, item.doc_id)
                documents += 1
                characters += len(item.text)
            progress(done, len(source), "documents", skipped=len(skipped))
    if not documents:
        raise CorpusError(_nothing_left(settings, skipped))
    left_out, others = source.left_out(), source.other_files()
    listed = [{"doc_id": item.doc_id, "reason": item.reason} for item in [*skipped, *left_out]]
    write_json(folder / "skipped.json", listed)
    summary = {
        "source": settings.corpus_dir,
        "documents": documents,
        "characters": characters,
        "metadata_fields": ", ".join(f"{name}: {kind}" for name, kind in sorted(fields.types.items())),
        "skipped": len(skipped),
        "skipped_by_reason": dict(sorted(Counter(item.kind for item in skipped).items())),
        "metadata_rows_left_out": len(left_out),
        "other_files": sum(others.values()),
        "other_files_by_extension": others,
        "fingerprint": source.fingerprint(digests),
    }
    write_json(folder / "summary.json", summary)


def source_fingerprint(settings: CorpusSettings, digest_cache: Path | None = None) -> str:
    """Digest of what the source holds now: it equals the summary's ``fingerprint`` as long as nothing
    changed that :func:`read_corpus` would read.

    Args:
        settings: the corpus.
        digest_cache: a folder for the digests of a local corpus's files: those that did not change since are not
            read again (:mod:`~assets_pkg.corpus.file_digests`). With None all files are read.

    Raises:
        CorpusError: the source is missing or of an unknown kind.
    """
    return _source(settings, digest_cache).current_fingerprint()


def seconds_since_change(settings: CorpusSettings) -> float:
    """Seconds since a file or folder of the corpus last changed; infinity for a source that is not a local folder.

    Folders count too, since a deletion changes only its folder. A time more than a minute in the future says nothing:
    it came with the file, or the clock was set back since.
    """
    root = Path(settings.corpus_dir).expanduser()
    if not root.is_dir():
        return math.inf
    now = time.time()
    times = (path.stat().st_mtime for path in [root, *root.rglob("*")] if path.exists())
    newest = max((moment for moment in times if moment <= now + CLOCKS_DIFFER_SECONDS), default=-math.inf)
    return max(0.0, now - newest)


def _source(settings: CorpusSettings, digest_cache: Path | None = None) -> DocumentSource:
    if settings.corpus_dir.startswith(PYDOC):
        return StdlibSource(settings)
    if settings.corpus_dir.startswith("hf://"):
        return HubFolder(settings)
    if _URL.match(settings.corpus_dir):
        return RemoteFolder(settings)
    return LocalFolder(settings, digest_cache)


def _nothing_left(settings: CorpusSettings, skipped: list[Skipped]) -> str:
    named = "; ".join(f"{item.doc_id} ({item.reason})" for item in skipped[:NAMED_IN_ERROR])
    more = f"; and {len(skipped) - NAMED_IN_ERROR} more" if len(skipped) > NAMED_IN_ERROR else ""
    return f"corpus.corpus_dir = {settings.corpus_dir!r}: none of its {len(skipped)} files can be used: {named}{more}"
