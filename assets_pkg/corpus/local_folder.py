"""A folder of text files as documents."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError, Reading, Skipped
from assets_pkg.corpus.metadata import (
    TITLE,
    as_json,
    field_name,
    find_metadata_file,
    read_metadata_file,
    tidy,
)
from assets_pkg.corpus.segmentation import title_of
from storage.artifacts import Document
from storage.digests import digest_file, digest_tree

_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def split_front_matter(text: str) -> tuple[dict[Any, Any], str]:
    """The fields, and the text after them. A text that begins with a line of dashes and no mapping has none."""
    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        fields: Any = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError):  # a date such as 2024-02-31 is a ValueError
        return {}, text
    if not isinstance(fields, dict):
        return {}, text
    return cast("dict[Any, Any]", fields), text[match.end() :]


SNIFF_BYTES = 8192
UNREADABLE = "unreadable"
"""Stands for the digest of a file that has no bytes to read."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class FolderSource:
    """All files below a folder whose extension is wanted; names that begin with a dot are left out.

    Links to folders are followed, each real folder once, so a loop ends. ``num_files`` takes the first files
    in the order of their names.
    """

    def __init__(self, settings: CorpusSettings) -> None:
        self._root = Path(settings.corpus_dir).expanduser()
        self._settings = settings
        if not self._root.exists():
            raise CorpusError(f"corpus.corpus_dir = {settings.corpus_dir!r}: no such folder")
        if not self._root.is_dir():
            raise CorpusError(
                f"corpus.corpus_dir = {settings.corpus_dir!r}: a file; give the folder it is in"
            )
        self._metadata_file = find_metadata_file(self._root)
        self._names = self._list()

    def __len__(self) -> int:
        return len(self._names)

    def describe_empty(self) -> str:
        wanted = ", ".join(extension or "none" for extension in self._settings.file_extensions)
        return f"no file with one of the extensions {wanted} (corpus.file_extensions)"

    def read(self) -> Iterator[Reading]:
        """Every file as a document or as skipped with a reason, with the digest of its bytes."""
        fields = read_metadata_file(self._metadata_file) if self._metadata_file else {}
        for name in self._names:
            reading, digest = _read(self._root / name, name)
            if isinstance(reading, Document):
                reading = self._long_enough(self._with_fields(reading, fields.get(name, {})))
            yield reading, digest

    def fingerprint(self, digests: list[tuple[str, str]]) -> str:
        return digest_tree([*digests, *self._beside()])

    def current_fingerprint(self) -> str:
        """Digest of the paths and bytes of the files now."""
        return self.fingerprint([(_shown(name), _digest(self._root / name)) for name in self._names])

    def _beside(self) -> list[tuple[str, str]]:
        """The metadata file's name and digest, if there is one."""
        path = self._metadata_file
        return [(path.name, _digest(path))] if path else []

    def _with_fields(self, document: Document, row: Mapping[Any, Any]) -> Document:
        """The document without its front matter; the metadata file's fields go before those of the front matter."""
        front, text = split_front_matter(document.text)
        wanted = self._settings.metadata_fields
        columns = None if wanted is None else {field_name(name) for name in wanted}
        fields = {
            **tidy(front, document.doc_id, columns),
            **tidy(row, f"{self._metadata_file}, {document.doc_id}", columns),
        }
        given = fields.pop(TITLE, None)
        title = str(given) if given else title_of(text, Path(document.doc_id).stem)
        return Document(document.doc_id, title, text, as_json(fields))

    def _long_enough(self, document: Document) -> Document | Skipped:
        length, wanted = len(document.text.strip()), self._settings.min_text_length
        if length >= max(wanted, 1):
            return document
        detail = f"{length} characters, corpus.min_text_length is {wanted}"
        return Skipped(document.doc_id, "too short", detail)

    def _list(self) -> list[str]:
        wanted = {extension.lower() for extension in self._settings.file_extensions}
        names = sorted(
            path.relative_to(self._root).as_posix()
            for path in _walk(self._root)
            if path.suffix.lower() in wanted and path != self._metadata_file
        )
        return names[: self._settings.num_files]


def _walk(root: Path) -> Iterator[Path]:
    """Files below ``root``, and folders that cannot be opened. Linked folders come after all real ones, so that
    a file reached both ways has its real name."""
    pending, seen = [root], set[tuple[int, int]]()
    while pending:
        linked: list[Path] = []
        for folder in pending:
            yield from _walk_real(folder, seen, linked)
        pending = linked


def _walk_real(root: Path, seen: set[tuple[int, int]], linked: list[Path]) -> Iterator[Path]:
    """Files below ``root`` without following links; those to folders are added to ``linked``."""
    closed: list[OSError] = []
    for path, folders, files in os.walk(root, onerror=closed.append):
        here = Path(path).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked += [Path(path, name) for name in folders if Path(path, name).is_symlink()]
        yield from (Path(path, name) for name in files if not name.startswith("."))
    yield from (Path(error.filename) for error in closed)


def _read(path: Path, name: str) -> Reading:
    if not _is_utf8(name):
        return Skipped(_shown(name), "unreadable", "its name is not UTF-8"), _digest(path)
    if refused := _refused(path):
        return Skipped(name, "unreadable", refused), UNREADABLE
    try:
        with path.open("rb") as stream:
            head = stream.read(SNIFF_BYTES)
            if b"\0" in head:
                # Hashed in blocks: a big binary file is never held in memory.
                stream.seek(0)
                return _binary(name, head), hashlib.file_digest(stream, "sha256").hexdigest()
            data = head + stream.read()
    except OSError as error:
        return Skipped(name, "unreadable", error.strerror or str(error)), UNREADABLE
    return _decoded(name, data), hashlib.sha256(data).hexdigest()


def _binary(name: str, head: bytes) -> Skipped:
    if head.startswith(_UTF16):
        return Skipped(name, "not UTF-8", "it is UTF-16: save it as UTF-8")
    return Skipped(name, "binary", "it holds zero bytes")


def _decoded(name: str, data: bytes) -> Document | Skipped:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(name, "not UTF-8", f"byte {data[error.start]:#04x} at position {error.start}")
    if "\0" in text:
        return Skipped(name, "binary", "it holds zero bytes")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Document(doc_id=name, title="", text=text)


def _refused(path: Path) -> str:
    """Why a path cannot be opened as a file, or nothing. Opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "a folder that may not be opened"
    return "" if stat.S_ISREG(mode) else "it is not a regular file"


def _digest(path: Path) -> str:
    """SHA-256 of the file's bytes, or a word for a file that has none to read."""
    if _refused(path):
        return UNREADABLE
    try:
        return digest_file(path)
    except OSError:
        return UNREADABLE


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
