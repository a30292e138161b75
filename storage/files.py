"""Small text and JSON files, written so that readers see the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, text: str) -> None:
    """Replace the file at ``path`` (its folders are made) by ``text`` in UTF-8: written beside it, synced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
