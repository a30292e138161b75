"""An exported model as an encoder of the house, for measuring it without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resources.encoders.base import Role
from storage.artifacts import OnnxModel
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.base import Vectors


class FolderEncoder:
    """`assets_pkg.nim.engine.OnnxEncoder` as an `Encoder`."""

    def __init__(self, exported: OnnxModel):
        from assets_pkg.nim.engine import OnnxEncoder  # loads onnxruntime

        self._encoder = OnnxEncoder(exported.folder)
        self._version = exported.version

    @property
    def dimensions(self) -> int:
        return self._encoder.manifest.dimensions

    def identity(self, role: Role) -> str:
        return f"{self._version}-{role}"

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        vectors = self._encoder.embed(texts, role)
        progress(len(texts), len(texts), "texts")
        return vectors
