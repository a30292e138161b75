"""An exported model folder (``retune_model.json``, ``model.onnx``, ``tokenizer.json``) as an encoder."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resources.encoders.base import Role
from resources.encoders.items import Input, ItemError, as_items
from resources.encoders.sentence_transformer import EncoderError
from resources.models.entry import Modality
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from assets_pkg.nim.engine import OnnxEncoder as Engine
    from resources.encoders.base import Vectors

MODALITIES: tuple[Modality, ...] = ("text",)
BLOCK = 1024
"""Texts embedded between two reports of progress: many batches."""


class OnnxEncoder:
    """Embeds with the engine of Retune's embedding server, in this process and without torch.

    Pooling and normalisation are in the graph; prompts and the maximum length are in the manifest.
    """

    def __init__(self, folder: Path, model_digest: str):
        self.folder = folder
        self._digest = model_digest
        self._engine: Engine | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return MODALITIES

    @property
    def dimensions(self) -> int:
        return self._load().manifest.dimensions

    def identity(self, role: Role) -> str:
        return digest_json([self._digest, role])

    def embed(self, texts: Sequence[Input], role: Role, progress: Progress = no_progress) -> Vectors:
        """As `ItemEncoder.embed`, texts only.

        Raises:
            EncoderError: the folder cannot be used, or the model gave a vector that is not finite.
        """
        import numpy as np

        from assets_pkg.nim.tokens import TextError

        rows = [item.text or "" for item in as_items(texts, MODALITIES, self.folder.name)]
        engine = self._load()
        vectors = np.empty((len(rows), engine.manifest.dimensions), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            try:
                with as_encoder_errors(self.folder):
                    vectors[start : start + len(block)] = engine.embed(block, role)
            except TextError as error:
                raise ItemError(str(error), start + error.index) from error
            progress(start + len(block), len(rows), "items")
        return vectors

    def open(self) -> None:
        """Load the model now. Raises `EncoderError` where the folder cannot be used."""
        self._load()

    def close(self) -> None:
        self._engine = None
        gc.collect()

    def _load(self) -> Engine:
        if self._engine is None:
            with as_encoder_errors(self.folder):
                self._engine = self._make()
        return self._engine

    def _make(self) -> Engine:
        from assets_pkg.nim.engine import OnnxEncoder as Engine

        return Engine(self.folder)


@contextmanager
def as_encoder_errors(folder: Path) -> Generator[None]:
    """The server's own errors, which know nothing of Retune's, as `EncoderError`."""
    from assets_pkg.nim.manifest import FolderError
    from assets_pkg.nim.model import BadOutputError

    try:
        yield
    except FolderError as error:
        raise EncoderError(str(error)) from error
    except BadOutputError as error:
        raise EncoderError(f"{folder}: {error}") from error
