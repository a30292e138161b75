"""A cache of every answer, written as soon as it arrives.

SQLite in WAL mode: a committed answer survives ``kill -9`` without a sync per answer, a power cut loses at
most the last few and never the file (sqlite.org/wal.html), and several runs may share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import zlib
from pathlib import Path
from typing import Any

from storage.files import make_database_file, set_aside

# Earlier versions kept answers without a checksum, in the table ``answers``.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS checked_answers "
    "(key BLOB PRIMARY KEY, answer TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID",
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

log = logging.getLogger(__name__)


def answer_key(*parts: Any) -> bytes:
    """SHA-256 of everything that decides an answer (endpoint, model, parameters, schema, messages)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).digest()


class AnswerCache:
    """A map from key to answer (a JSON value) in one file.

    An answer is kept with a checksum, and one that does not match it counts as absent. A file that SQLite finds damaged
    is set aside with a warning, and the cache starts anew.
    """

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise OSError(
                    f"{path}: the answer cache cannot be opened ({error}): check that the disk has space and that "
                    "the file is writable, or move it away to start anew"
                ) from error
            self._start_anew(error)

    def get(self, key: bytes) -> Any | None:
        """The answer kept under ``key``, or None."""
        for answer, checksum in self._rows(
            "SELECT answer, checksum FROM checked_answers WHERE key = ?1 "
            "UNION ALL SELECT answer, NULL FROM answers WHERE key = ?1",
            (key,),
        ):
            try:
                if checksum in (None, _checksum(key, answer)):
                    return json.loads(answer)
            except (TypeError, ValueError):  # not a text, or not JSON
                pass
            log.warning("answer cache %s: a damaged answer is asked for again", self._path)
        return None

    def put(self, key: bytes, answer: Any) -> None:
        """Keep an answer; it is in the file when this returns."""
        text = json.dumps(answer)
        row = (key, text, _checksum(key, text.encode()))
        self._rows("INSERT OR REPLACE INTO checked_answers VALUES (?, ?, ?)", row)

    def __len__(self) -> int:
        keys = "SELECT key FROM answers UNION SELECT key FROM checked_answers"
        return self._rows(f"SELECT count(*) FROM ({keys})")[0][0]

    def close(self) -> None:
        self._file.close()

    def _connect(self) -> None:
        make_database_file(self._path, *_TABLES)
        self._file = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        self._file.text_factory = bytes  # what damage made of a text may not be UTF-8
        self._inode = self._path.stat().st_ino
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        for table in _TABLES:
            self._file.execute(table)

    def _rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a statement; those of an empty file where the file is damaged."""
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._start_anew(error)
        return self._file.execute(statement, values).fetchall()

    def _start_anew(self, error: sqlite3.DatabaseError) -> None:
        self._file.close()
        companions = [self._path.with_name(f"{self._path.name}{suffix}") for suffix in ("-wal", "-shm")]
        aside = set_aside(self._path, companions, self._inode)
        log.warning(
            "answer cache %s is damaged (%s): it was renamed to %s, and answers are asked for again. `sqlite3 %s "
            ".recover` shows what can be read of it",
            self._path,
            error,
            aside.name,
            aside,
        )
        self._connect()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _DAMAGED  # the other bits say more about it


def _checksum(key: bytes, answer: bytes) -> int:
    return zlib.crc32(answer, zlib.crc32(key))
