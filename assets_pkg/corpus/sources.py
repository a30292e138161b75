"""The raw corpus: chooses the source that ``corpus_dir`` names, reads it, and detects changes of it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.corpus_writer import CorpusWriter
from assets_pkg.corpus.document_source import CorpusError, DocumentSource, Skipped
from assets_pkg.corpus.file_reading import READ_CACHE
from assets_pkg.corpus.known_languages import KnownLanguages
from assets_pkg.corpus.local_folder import LocalFolder
from assets_pkg.corpus.pydoc import PYDOC, StdlibSource
from assets_pkg.corpus.remote_folder import HubFolder, RemoteFolder
from storage.artifacts import SKIPPED_FILE
from storage.files import write_json, write_json_lines
from storage.progress import Progress, no_progress

__all__ = [
    "CorpusError",
    "check_source",
    "files_by_type",
    "read_corpus",
    "seconds_since_change",
    "source_fingerprint",
]

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


def read_corpus(
    settings: CorpusSettings, folder: Path, progress: Progress = no_progress, cache: Path | None = None
) -> None:
    """Write ``documents.parquet``, ``pages.parquet`` (if a document has pages), ``skipped.jsonl``, ``warnings.jsonl``
    and ``summary.json`` into ``folder``.

    ``skipped.jsonl`` has rows of ``{doc_id, reason}``: documents, rows of the metadata file, then files that are no
    documents; the summary has the numbers of documents and characters, of skipped documents by kind of reason, of
    metadata rows without a document, of files by type, of files that are no documents by extension, and the
    ``fingerprint`` of the bytes that were read.

    Args:
        cache: a folder that keeps what files hold, so that unchanged ones are not read again.

    Raises:
        CorpusError: the source is missing, empty or of an unknown kind, every document was skipped, or the user's
            own fields cannot be columns of one table.
    """
    source = _source(settings, cache)
    if not len(source):
        raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: {source.describe_empty()}")
    kept = cache / READ_CACHE if cache else None
    with (
        KnownLanguages(kept, settings.corpus_dir) as languages,
        CorpusWriter(folder, languages.of) as writer,
    ):
        for done, file in enumerate(source.read(), start=1):
            writer.add(file)
            progress(done, len(source), "files", documents=writer.documents, skipped=len(writer.skipped))
    if not writer.documents:
        raise CorpusError(_nothing_left(settings, writer.skipped))
    left_out, others = source.left_out(), source.other_files()
    write_json_lines(
        folder / SKIPPED_FILE,
        (
            {"doc_id": s.doc_id, "reason": s.reason}
            for s in chain(writer.skipped, left_out, source.not_read())
        ),
    )
    summary = {
        "source": settings.corpus_dir,
        "files": len(source),
        **writer.summary(),
        **source.figures(),
        "metadata_rows_left_out": len(left_out),
        "files_by_type": source.files_by_type(),
        "other_files": sum(others.values()),
        "other_files_by_extension": others,
        "fingerprint": source.fingerprint(writer.digests),
    }
    write_json(folder / "summary.json", summary)


def files_by_type(settings: CorpusSettings) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many files of a local folder would be read, by type, and how many would not, by extension; nothing for other
    sources, which are not asked."""
    source = _source(settings)
    if isinstance(source, LocalFolder):
        return source.files_by_type(), source.other_files()
    return {}, {}


def source_fingerprint(settings: CorpusSettings, cache: Path | None = None) -> str:
    """Digest of what the source holds now: it equals the summary's ``fingerprint`` as long as nothing
    changed that :func:`read_corpus` would read.

    Args:
        settings: the corpus.
        cache: a folder for the digests of a local corpus's files: those that did not change since are not read again
            (:mod:`~assets_pkg.corpus.file_digests`). With None all files are read.

    Raises:
        CorpusError: the source is missing or of an unknown kind.
    """
    return _source(settings, cache).current_fingerprint()


def seconds_since_change(settings: CorpusSettings) -> float:
    """Seconds since a file or folder of the corpus last changed; infinity for a source that is not on this machine.

    Folders count too, since a deletion changes only its folder. A time more than a minute in the future says nothing:
    it came with the file, or the clock was set back since.
    """
    root = Path(settings.corpus_dir).expanduser()
    if not root.exists():
        return math.inf
    now = time.time()
    times = (path.stat().st_mtime for path in [root, *root.rglob("*")] if path.exists())
    newest = max((moment for moment in times if moment <= now + CLOCKS_DIFFER_SECONDS), default=-math.inf)
    return max(0.0, now - newest)


def _source(settings: CorpusSettings, cache: Path | None = None) -> DocumentSource:
    if settings.corpus_dir.startswith(PYDOC):
        return StdlibSource(settings)
    if settings.corpus_dir.startswith("hf://"):
        return HubFolder(settings, cache)
    if _URL.match(settings.corpus_dir):
        return RemoteFolder(settings, cache)
    return LocalFolder(settings, cache)


def _nothing_left(settings: CorpusSettings, skipped: list[Skipped]) -> str:
    named = "; ".join(f"{item.doc_id} ({item.reason})" for item in skipped[:NAMED_IN_ERROR])
    more = f"; and {len(skipped) - NAMED_IN_ERROR} more" if len(skipped) > NAMED_IN_ERROR else ""
    return f"corpus.corpus_dir = {settings.corpus_dir!r}: none of its {len(skipped)} files can be used: {named}{more}"
