"""Reads the files of a folder in order: plain text at once, all other types ahead in reader processes, and none whose
text is kept from before."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import Skipped
from assets_pkg.corpus.file_digests import FileDigests
from assets_pkg.corpus.readers.file_document import FileDocument, FileItem, ReadError, ReadOptions
from assets_pkg.corpus.readers.pool import ReaderPool, ReadLimits, item_of, items_in
from assets_pkg.corpus.readers.registry import PLAIN, extension_of, looks_like_text
from resources.machine.cpus import usable_cpus
from storage.digests import digest_json, digest_text

READERS = "1"
"""Raised when readers make another text of the same file: it is read again, and the corpus is stale."""

READ_CACHE = "documents"
"""Below the cache of the artifact root."""

UNREADABLE = "unreadable"
"""In place of the digest of a file that cannot be read."""

MAX_PROCESSES = 8
AHEAD = 4
"""Files for each reader process that wait to be read."""

LOOKED_AT_AHEAD = 2000
"""Files among which those are found that wait: unchanged ones lie between."""

IN_MEMORY_BYTES = 1 << 20
"""Of a file's kept text that is read at once; that of a longer one is read line by line."""

SNIFF_BYTES = 8192

Contents: TypeAlias = Iterable[FileItem] | Skipped
"""What a file holds, or why it was skipped."""

Read: TypeAlias = tuple[str, str, Contents]
"""A file's name, the digest of its bytes, and what it holds."""


class FileReader:
    """Reads files below ``root``; a context manager that ends its processes.

    Args:
        cache: where the text of files that are no plain text is kept, by their digests; with None nowhere.
        known_as: the name of the folder, if it is a copy.
    """

    def __init__(self, root: Path, settings: CorpusSettings, cache: Path | None, known_as: str) -> None:
        self._root = root
        self._limits = ReadLimits(settings.max_file_seconds, settings.max_file_memory_mb)
        self._options = ReadOptions(
            settings.text_columns, settings.title_column, settings.id_column, self._limits.max_bytes
        )
        self._processes = settings.reader_processes or min(MAX_PROCESSES, usable_cpus())
        how = [READERS, known_as, settings.text_columns, settings.title_column, settings.id_column]
        self._kept = _Kept(cache / READ_CACHE / digest_json(how)) if cache else None
        self._digests = FileDigests(root)
        self._pool: ReaderPool | None = None
        self.converted = self.unchanged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def read_all(self, names: Iterable[str], digests: FileDigests) -> Iterator[Read]:
        """The files in order. What one holds is used up before the next is asked for."""
        self._digests = digests
        ahead: deque[_Reading] = deque()
        waiting = 0
        for name in names:
            ahead.append(self._begin(name))
            waiting += ahead[-1].pending is not None
            while waiting > AHEAD * self._processes or len(ahead) > LOOKED_AT_AHEAD:
                waiting -= ahead[0].pending is not None
                yield from self._end(ahead.popleft())
        while ahead:
            yield from self._end(ahead.popleft())
        if self._kept:
            self._kept.drop_unused()

    def _begin(self, name: str) -> _Reading:
        """A file that is read at its turn, or ahead of it, or was read before."""
        if not is_utf8(name):
            return _Reading(name, digest_of(self._digests, name), why="its name is not UTF-8")
        if is_plain(name):
            return _Reading(name, UNREADABLE, why=_why_not_opened(self._root, name))
        digest = digest_of(self._digests, name)
        if digest == UNREADABLE:
            return _Reading(name, digest, why=_why_not_opened(self._root, name) or "it cannot be opened")
        if self._kept and (kept := self._kept.find(digest, name)):
            return _Reading(name, digest, kept=kept)
        return _Reading(name, digest, pending=self._submit(name))

    def _submit(self, name: str) -> Future[Path]:
        if self._pool is None:
            self._pool = ReaderPool(self._processes, self._limits, self._options)
        self.converted += 1
        return self._pool.submit(self._root / name)

    def _end(self, reading: _Reading) -> Iterator[Read]:
        name = reading.name
        if reading.why:
            yield name, reading.digest, Skipped(printable(name), "unreadable", reading.why)
        elif reading.kept:
            yield from self._unchanged(reading)
        elif reading.pending:
            yield from self._read(reading, reading.pending)
        else:
            yield from self._plain(name)

    def _unchanged(self, reading: _Reading) -> Iterator[Read]:
        """A file whose text is kept; one whose kept text is damaged is read again."""
        items = self._kept.items(reading.kept) if self._kept else None
        if items is None:
            yield from self._read(reading, self._submit(reading.name))
        else:
            self.unchanged += 1
            yield reading.name, self._version(reading), items

    def _plain(self, name: str) -> Iterator[Read]:
        """A text file; one that is no UTF-8 goes to a reader."""
        try:
            with (self._root / name).open("rb") as stream:
                head = stream.read(SNIFF_BYTES)
                size = os.fstat(stream.fileno()).st_size
                if looks_like_text(head) and size <= self._limits.max_bytes:
                    data = head + stream.read()
                    digest = hashlib.sha256(data).hexdigest()
                else:
                    data, digest = None, _hash(stream)
        except OSError as error:
            yield name, UNREADABLE, Skipped(name, "unreadable", error.strerror or str(error))
            return
        text = None if data is None else _utf8(data)
        if text is not None:
            yield name, digest, [FileDocument(text)]
        elif size > self._limits.max_bytes:
            detail = f"{size / 1e6:,.0f} MB, more than corpus.max_file_memory_mb = {self._limits.memory_mb}"
            yield name, digest, Skipped(name, "too large", detail)
        else:
            yield from self._read(_Reading(name, digest), self._submit(name))

    def _read(self, reading: _Reading, pending: Future[Path]) -> Iterator[Read]:
        name, version = reading.name, self._version(reading)
        try:
            path = pending.result()
        except ReadError as error:
            yield name, version, Skipped(name, error.kind, error.detail)
            return
        # Read again if it changed meanwhile: then what was read belongs to neither digest for sure.
        if self._kept and not is_plain(name) and digest_of(self._digests, name) == reading.digest:
            kept = self._kept.keep(path, reading.digest, name)
            if kept:
                yield name, version, items_in(kept, after_lines=1)
                return
        try:
            yield name, version, items_in(path)
        finally:
            path.unlink(missing_ok=True)

    def _version(self, reading: _Reading) -> str:
        return versioned(reading.name, reading.digest)


@dataclass(frozen=True)
class _Reading:
    """A file between the begin and the end of its reading."""

    name: str
    digest: str = ""
    why: str = ""
    kept: str = ""
    pending: Future[Path] | None = None


class _Kept:
    """What was read before: a file for each digest and name, after a line with the digest of its own lines. What a
    whole reading did not use is deleted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._there = _names_two_levels_below(folder)
        self._used: set[str] = set()

    def find(self, digest: str, name: str) -> str:
        """The name of the file, which may be damaged; empty if there is none."""
        key = _key(digest, name)
        return key if key in self._there else ""

    def items(self, key: str) -> Iterator[FileItem] | None:
        """What was read; None if it is damaged or gone."""
        path = self._path(key)
        try:
            with open(path, "rb") as stream:
                written = stream.readline().strip()
                lines = stream.read(IN_MEMORY_BYTES)
                is_long = len(lines) == IN_MEMORY_BYTES
                found = hashlib.sha256(lines)
                while block := stream.read(IN_MEMORY_BYTES):
                    found.update(block)
        except OSError:
            return None
        if found.hexdigest().encode() != written:
            return None
        self._used.add(key)
        return items_in(Path(path), after_lines=1) if is_long else map(item_of, lines.splitlines())

    def keep(self, made: Path, digest: str, name: str) -> Path | None:
        """Move what was read into the cache; where that fails it stays where it is."""
        path = Path(self._path(_key(digest, name)))
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with made.open("rb") as source, beside.open("wb") as target:
                target.write(hashlib.file_digest(source, "sha256").hexdigest().encode() + b"\n")
                source.seek(0)
                shutil.copyfileobj(source, target)
            beside.rename(path)
        except OSError:
            beside.unlink(missing_ok=True)
            return None
        self._there.add(path.name)
        self._used.add(path.name)
        made.unlink()
        return path

    def drop_unused(self) -> None:
        for name in self._there - self._used:
            Path(self._path(name)).unlink(missing_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key[:2]}/{key}"


def _key(digest: str, name: str) -> str:
    return digest_text(f"{digest} {name.rpartition('/')[2]}") + ".jsonl"


def _names_two_levels_below(folder: Path) -> set[str]:
    names: set[str] = set()
    for below in folder.glob("*"):
        with suppress(OSError):
            names.update(os.listdir(below))
    return names


def is_plain(name: str) -> bool:
    """Whether a file's name says that it is plain text."""
    return extension_of(name) in PLAIN


def versioned(name: str, digest: str) -> str:
    """The digest of a file's bytes, and of how they are read where that is more than decoding them."""
    return digest if is_plain(name) or digest == UNREADABLE else f"{digest}-{READERS}"


def _why_not_opened(root: Path, name: str) -> str:
    """Why a path cannot be opened as a file, or nothing. Opening a pipe would block."""
    try:
        mode = (root / name).stat().st_mode
    except FileNotFoundError:
        return "it is a link to a file that does not exist, or has just been deleted"
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "a folder that may not be opened"
    return "" if stat.S_ISREG(mode) else "it is not a regular file"


def _hash(stream: BufferedReader) -> str:
    """The digest of all bytes, in blocks, so that a large binary file is never in memory as a whole."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _utf8(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def digest_of(files: FileDigests, name: str) -> str:
    """SHA-256 of the file's bytes, or :data:`UNREADABLE`."""
    try:
        return files.of(name)
    except OSError:
        return UNREADABLE


def is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
