"""Content digests, of which data versions are made.

Every digest here is the first 16 hex digits (64 bits) of a SHA-256, enough to name versions of one
project's artifacts and short enough to read in a path or in the UI.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DIGEST_LENGTH = 16


def digest_bytes(data: bytes) -> str:
    """Digest of raw bytes."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def digest_text(text: str) -> str:
    """Digest of a text's UTF-8 bytes."""
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def digest_json(value: Any) -> str:
    """Digest of a JSON value, independent of key order and whitespace."""
    return digest_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def digest_file(path: Path) -> str:
    """Full SHA-256 (64 hex digits) of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_tree(files: Iterable[tuple[str, str]]) -> str:
    """Digest of a folder from (relative path, file digest) pairs, in any order."""
    return digest_json(sorted(files))


def passage_id(text: str) -> str:
    """The recipe's content id of a passage: ``d_`` and 16 hex digits of its SHA-256."""
    return f"d_{digest_text(text)}"
