"""A folder of text files as documents."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, ReadResult, Skipped
from assets_pkg.corpus.file_digests import FileDigests
from assets_pkg.corpus.front_matter import FrontMatterError, split_front_matter
from assets_pkg.corpus.metadata import TITLE, FieldValueError, as_json, field_name, normalize_fields
from assets_pkg.corpus.metadata_file import find_metadata_file, read_metadata_file
from assets_pkg.corpus.segmentation import title_of
from storage.artifacts import Document
from storage.digests import digest_tree

SNIFF_BYTES = 8192
FRONT_MATTER = "front matter"
LINK_OUT = "link out of the corpus"
UNREADABLE = "unreadable"
"""In place of the digest of a file that cannot be read."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class LocalFolder:
    """All files below a folder that have one of the extensions; names that begin with a dot are left out.

    Links to folders are followed, each real folder once, so that a loop ends. A link that leads out of the folder is
    skipped: whoever may put files into it must not be able to publish others. ``num_files`` takes the first files in
    the order of their names.

    Args:
        settings: folder, extensions, limits and metadata fields.
        digest_cache: where :meth:`current_fingerprint` keeps the digests of files (:class:`FileDigests`); with None
            it reads all of them.
        links_within: the folder that links may lead to, if it is a larger one (a cache that holds the files).

    Raises:
        CorpusError: no such folder, two metadata files, or one that is a link out of the folder.
    """

    def __init__(
        self, settings: CorpusSettings, digest_cache: Path | None = None, links_within: Path | None = None
    ) -> None:
        self._root = Path(settings.corpus_dir).expanduser()
        self._settings = settings
        self._digest_cache = digest_cache
        if not self._root.exists():
            raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: no such folder")
        if not self._root.is_dir():
            raise CorpusError(
                f"corpus.corpus_dir = {settings.corpus_dir!r}: a file; give the folder it is in"
            )
        self._within = (links_within or self._root).resolve()
        self._metadata_file = find_metadata_file(self._root)
        if self._metadata_file and _leads_out(self._metadata_file, self._within):
            raise CorpusError(f"{self._metadata_file}: a link out of the corpus: put the file itself there")
        self._links_out: set[str] = set()
        self._other_files: Counter[str] = Counter()
        self._all_names = self._list()
        self._names = self._all_names[: settings.num_files]
        self._unmatched: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._names)

    def describe_empty(self) -> str:
        extensions = ", ".join(extension or "none" for extension in self._settings.file_extensions)
        return f"no file with one of the extensions {extensions} (corpus.file_extensions)"

    def read(self) -> Iterator[ReadResult]:
        """Every file as a document or as skipped with a reason, with the digest of its bytes."""
        fields: dict[str, dict[str, Any]] = {}
        if self._metadata_file:
            fields, self._unmatched = read_metadata_file(self._metadata_file, self._all_names)
        for name in self._names:
            item, digest = self._read(name)
            if isinstance(item, Document):
                item = self._with_fields(item, fields.get(name, {}))
            yield (self._check_length(item) if isinstance(item, Document) else item), digest

    def left_out(self) -> list[Skipped]:
        """Rows of the metadata file that are about no document."""
        return self._unmatched

    def other_files(self) -> dict[str, int]:
        return dict(self._other_files.most_common())

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        return self._fingerprint(digests, FileDigests(self._root))

    def current_fingerprint(self) -> str:
        """Digest of the paths and bytes of the files now."""
        with FileDigests(self._root, self._digest_cache) as files:
            return self._fingerprint(
                [(_printable(name), self._digest_now(files, name)) for name in self._names], files
            )

    def _fingerprint(self, digests: list[tuple[str, str]], files: FileDigests) -> str:
        """Of the documents' digests and of the metadata file's, if there is one."""
        path = self._metadata_file
        metadata = [(path.name, _digest(files, path.name))] if path else []
        return digest_tree([*digests, *metadata])

    def _read(self, name: str) -> ReadResult:
        if name in self._links_out:
            detail = "put the files themselves there, or name their own folder in corpus_dir"
            return Skipped(_printable(name), LINK_OUT, detail), UNREADABLE
        return _read(self._root, name)

    def _digest_now(self, files: FileDigests, name: str) -> str:
        return UNREADABLE if name in self._links_out else _digest(files, name)

    def _with_fields(self, document: Document, row: Mapping[Any, Any]) -> Document | Skipped:
        """The document without its front matter; fields of the metadata file override those of the front matter."""
        selected = self._settings.metadata_fields
        columns = None if selected is None else {field_name(name) for name in selected}
        try:
            front_matter, text = split_front_matter(document.text)
            own = normalize_fields(front_matter, document.doc_id, columns)
        except (FrontMatterError, FieldValueError) as error:
            return Skipped(document.doc_id, FRONT_MATTER, str(error))
        fields = {**own, **self._fields_of(row, document.doc_id, columns)}
        own_title = fields.pop(TITLE, None)
        title = str(own_title) if own_title else title_of(text, Path(document.doc_id).stem)
        return Document(document.doc_id, title, text, as_json(fields))

    def _fields_of(self, row: Mapping[Any, Any], name: str, columns: set[str] | None) -> dict[str, Any]:
        where = f"{self._metadata_file}, {name}"
        try:
            return normalize_fields(row, where, columns)
        except FieldValueError as error:
            raise CorpusError(f"{where}: {error}") from error

    def _check_length(self, document: Document) -> Document | Skipped:
        length, least = len(document.text.strip()), self._settings.min_text_length
        if length >= max(least, 1):
            return document
        detail = f"{length} characters, corpus.min_text_length is {least}"
        return Skipped(document.doc_id, "too short", detail)

    def _list(self) -> list[str]:
        extensions = {extension.lower() for extension in self._settings.file_extensions}
        names: list[str] = []
        for path, leads_out in _walk(self._root, self._within):
            name = path.relative_to(self._root).as_posix()
            if path == self._metadata_file:
                continue
            extension = path.suffix.lower()
            if extension not in extensions and not _is_folder_link(path, leads_out):
                self._other_files[extension] += 1
                continue
            names.append(name)
            if leads_out:
                self._links_out.add(name)
        return sorted(names)


# ---- listing files -------------------------------------------------------------------------------------------


def _walk(root: Path, within: Path) -> Iterator[tuple[Path, bool]]:
    """Files below ``root``, folders that cannot be opened, and links that lead out of ``within``, each with whether it
    is such a link. Linked folders come after all real ones, so that a file that is reached both ways gets its real
    path."""
    pending, seen = [root], set[tuple[int, int]]()
    while pending:
        linked: list[Path] = []
        for folder in pending:
            for path in _walk_real(folder, seen, linked):
                yield path, _leads_out(path, within)
        outside = [path for path in linked if _leads_out(path, within)]
        yield from ((path, True) for path in outside)
        pending = [path for path in linked if path not in outside]


def _leads_out(path: Path, within: Path) -> bool:
    """Whether a path is a link to something that is not below ``within``."""
    if not path.is_symlink():
        return False
    try:
        return not path.resolve().is_relative_to(within)
    except (OSError, RuntimeError):  # a link to itself, which reading will name
        return False


def _is_folder_link(path: Path, leads_out: bool) -> bool:
    return leads_out and path.is_dir()


def _walk_real(root: Path, seen: set[tuple[int, int]], linked: list[Path]) -> Iterator[Path]:
    """Files below ``root`` without following links; those to folders are added to ``linked``."""
    errors: list[OSError] = []
    for path, folders, files in os.walk(root, onerror=errors.append):
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked += [Path(path, name) for name in folders if Path(path, name).is_symlink()]
        yield from (Path(path, name) for name in files if not name.startswith("."))
    yield from (Path(error.filename) for error in errors)


# ---- reading a file ------------------------------------------------------------------------------------------


def _read(root: Path, name: str) -> ReadResult:
    path = root / name
    if not _is_utf8(name):
        digest = _digest(FileDigests(root), name)
        return Skipped(_printable(name), "unreadable", "its name is not UTF-8"), digest
    if reason := _not_regular(path):
        return Skipped(name, "unreadable", reason), UNREADABLE
    try:
        with path.open("rb") as stream:
            head = stream.read(SNIFF_BYTES)
            if b"\0" in head:
                # Hashed in blocks, so that a large binary file is never in memory as a whole.
                stream.seek(0)
                return _skip_binary(name, head), hashlib.file_digest(stream, "sha256").hexdigest()
            data = head + stream.read()
    except OSError as error:
        return Skipped(name, "unreadable", error.strerror or str(error)), UNREADABLE
    return _decode(name, data), hashlib.sha256(data).hexdigest()


def _skip_binary(name: str, head: bytes) -> Skipped:
    if head.startswith(_UTF16):
        return Skipped(name, "not UTF-8", "it is UTF-16: save it as UTF-8")
    return Skipped(name, "binary", "it holds zero bytes")


def _decode(name: str, data: bytes) -> Document | Skipped:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(name, "not UTF-8", f"byte {data[error.start]:#04x} at position {error.start}")
    if "\0" in text:
        return Skipped(name, "binary", "it holds zero bytes")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Document(doc_id=name, title="", text=text)


def _not_regular(path: Path) -> str:
    """Why a path cannot be opened as a file, or nothing. Opening a pipe would block."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "a folder that may not be opened"
    return "" if stat.S_ISREG(mode) else "it is not a regular file"


def _digest(files: FileDigests, name: str) -> str:
    """SHA-256 of the file's bytes, or :data:`UNREADABLE`."""
    try:
        return files.of(name)
    except OSError:
        return UNREADABLE


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
