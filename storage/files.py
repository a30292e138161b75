"""Small text and JSON files, written so that readers see the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str, *, private: bool = False) -> None:
    """Replace the file at ``path`` (its folders are made) by ``text`` in UTF-8: written beside it, synced, renamed.

    A ``private`` file is one that only its user can read, from its first byte on, as is its folder if it is new.
    """
    path.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", opener=_open_private if private else None) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_json(
    path: Path,
    value: Any,
    *,
    indent: int | None = 1,
    ensure_ascii: bool = False,
    sort_keys: bool = False,
    final_newline: bool = False,
) -> None:
    """Replace the file at ``path`` by ``value`` as JSON, as `write_atomic` does.

    Artifacts are named by their bytes, so each kind of file keeps the format it was first written in: ``indent``,
    ``ensure_ascii`` and ``sort_keys`` are those of `json.dumps`; ``final_newline`` ends the file with a line break.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    write_atomic(path, text + "\n" if final_newline else text)
