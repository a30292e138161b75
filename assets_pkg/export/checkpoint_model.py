"""A checkpoint that has no ONNX export, run by torch. The one module of the server that needs it.

The checkpoint is read as the export reads it: same modules, prompts and lengths, so the answers are those that
its export would give.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import torch

from assets_pkg.export.onnx import ExportError, OnnxExportSettings, embedder, load_checkpoint, manifest_of
from assets_pkg.nim.manifest import FolderError, ServedModelManifest
from assets_pkg.nim.model import Model, TokenMatrix, Vectors
from resources.encoders.packed_linear import for_inference

HASHED_AT_ONCE = 2**22


class TorchModel(Model):
    """A sentence-transformers folder in torch, in float32, on the GPU where there is one."""

    def __init__(self, folder: Path) -> None:
        try:
            checkpoint = load_checkpoint(folder)
            self.manifest: ServedModelManifest = manifest_of(
                checkpoint,
                model_id=folder.resolve().name,
                model_digest=_digest(folder),
                settings=OnnxExportSettings(),
            ).model_copy(update={"opset": None})
        except ExportError as error:
            raise FolderError(f"{folder} cannot be served: {error}") from error
        except Exception as error:  # each reader of a format raises errors of its own
            raise FolderError(f"{folder} cannot be loaded: {' '.join(str(error).split())}") from error
        super().__init__(folder, self.manifest.dimensions)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.provider = f"torch on {self._device.type}"
        torch.set_num_threads(1)
        self._module = for_inference(embedder(checkpoint), self._device.type)

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        with torch.inference_mode():
            given = (torch.from_numpy(array).to(self._device) for array in (input_ids, attention_mask))
            return cast(Vectors, self._module(*given).cpu().numpy())


def _digest(folder: Path) -> str:
    """Of names and contents of all files: what `modelDigest` says of a folder that no export has stamped."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(HASHED_AT_ONCE):
                total.update(block)
    return total.hexdigest()[:16]
