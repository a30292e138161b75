"""An encoder whose process can be killed at a chosen text, and that writes down what it was asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resources.encoders.base import Role
from resources.encoders.recipe import EncoderRecipe
from storage.digests import digest_text
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

DIMENSIONS = 8


class SlowEncoder:
    """Vectors made of the texts' digests. At the text ``stop`` it leaves its process id and waits to be killed; once
    only."""

    dimensions = DIMENSIONS

    def __init__(self, folder: Path, stop: str):
        self._folder = folder
        self._stop = stop

    def identity(self, role: Role) -> str:
        return role

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        with (self._folder / "asked.txt").open("a") as asked:
            asked.write(f"{texts[0]}\n")
        victim = self._folder / "victim"
        if self._stop in texts and not victim.exists():
            beside = victim.with_suffix(".part")
            beside.write_text(str(os.getpid()))
            beside.rename(victim)
            while True:
                time.sleep(1)
        return expected(texts)


@dataclass(frozen=True)
class SlowRecipe(EncoderRecipe):
    """``model_digest`` is the text to be killed at."""

    def open(self) -> SlowEncoder:
        return SlowEncoder(Path(self.folder), self.model_digest)


def expected(texts: Sequence[str]) -> Vectors:
    rows = [np.frombuffer(bytes.fromhex(digest_text(text)[: 2 * DIMENSIONS]), np.uint8) for text in texts]
    matrix = np.stack(rows).astype(np.float32) + 1
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
