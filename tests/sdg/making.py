"""Passages, records and an encoder for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assets_pkg.corpus.passages import split_passages
from resources.encoders.base import Role
from storage.artifacts import Corpus, Passages
from storage.digests import digest_text
from storage.progress import Progress, no_progress
from tests.corpus.making import chunks


class WordEncoder:
    """A hashed bag of words: texts that share words are near, without any model."""

    dimensions = 512

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def identity(self, role: Role) -> str:
        return role

    def embed(
        self, texts: Sequence[str], role: Role, progress: Progress = no_progress
    ) -> NDArray[np.float32]:
        self.calls.append((role, len(texts)))
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[0] = 0.01
            for word in text.lower().split():
                row[int(digest_text(word.strip(".,?#")), 16) % self.dimensions] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cut(corpus: Corpus, folder: Path, sentences: int = 5) -> Passages:
    folder.mkdir()
    split_passages(corpus, chunks(sentences), folder)
    return Passages(folder, "passages", "v")
