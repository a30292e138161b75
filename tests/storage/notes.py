"""A small kind of artifact, and ways of making it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from storage.artifact_store import BuildKey
from storage.artifacts import Artifact


@dataclass(frozen=True)
class Note(Artifact):
    content: ClassVar[tuple[str, ...]] = ("note.txt",)


def key(code: str = "1", **inputs: str) -> BuildKey:
    return BuildKey("notes", code, inputs)


def writer(text: str, calls: list[str]) -> Callable[[Path], None]:
    def produce(folder: Path) -> None:
        calls.append(text)
        (folder / "note.txt").write_text(text)
        (folder / "log.txt").write_text(f"call {len(calls)}")

    return produce
