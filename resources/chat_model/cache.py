"""A cache of every answer, written as soon as it arrives.

SQLite in WAL mode: a committed answer survives ``kill -9`` without a sync per answer, a power cut loses at
most the last few and never the file (sqlite.org/wal.html), and several runs may share it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"


def answer_key(*parts: Any) -> bytes:
    """SHA-256 of everything that decides an answer (endpoint, model, parameters, schema, messages)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).digest()


class AnswerCache:
    """A map from key to answer (a JSON value) in one file."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"{path}: the answer cache cannot be opened ({error}): check that the disk has space and that "
                "the file is writable, or move it away to start anew"
            ) from error

    def get(self, key: bytes) -> Any | None:
        """The answer kept under ``key``, or None."""
        row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: bytes, answer: Any) -> None:
        """Keep an answer; it is in the file when this returns."""
        self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    def __len__(self) -> int:
        return self._file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._file.close()
