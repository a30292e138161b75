"""A checkpoint that has no ONNX export, run by torch behind the embedding server.

The checkpoint is read as the export reads it: same modules, prompts and lengths, so its vectors are those of its
export.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

import torch

from assets_pkg.export.exportable import ExportError, query_matrix
from assets_pkg.export.onnx import OnnxExportSettings, embedder, load_checkpoint, manifest_of
from assets_pkg.nim.loading import CHECKPOINT_FILE, LoadedModel, modified
from assets_pkg.nim.manifest import FolderError, ServedModelManifest
from assets_pkg.nim.model import Model, TokenMatrix, Vectors
from assets_pkg.nim.query_map import QueryMap
from assets_pkg.nim.tokens import TextTokenizer
from resources.encoders.packed_linear import for_inference

HASH_BLOCK_BYTES = 2**22


class CheckpointModel(Model):
    """A sentence-transformers folder in torch, in float32, on the GPU where there is one.

    Raises:
        FolderError: the folder cannot be loaded, or its modules cannot be served.
    """

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
        matrix = query_matrix(checkpoint)
        self.query_map = None if matrix is None else QueryMap(matrix)
        self._module = for_inference(embedder(checkpoint), self._device.type)

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        with torch.inference_mode():
            inputs = (torch.from_numpy(array).to(self._device) for array in (input_ids, attention_mask))
            return cast(Vectors, self._module(*inputs).cpu().numpy())


def load_checkpoint_model(folder: Path, max_length: int | None = None) -> LoadedModel:
    """A checkpoint for the embedding server: an `assets_pkg.nim.loading.Load`.

    Raises:
        FolderError: the folder cannot be served; the message names the file at fault.
    """
    model = CheckpointModel(folder)
    tokenizer = TextTokenizer(folder / _transformer_folder(folder), model.manifest, max_length)
    return LoadedModel(model.manifest, tokenizer, model, modified(folder / CHECKPOINT_FILE), model.query_map)


def _transformer_folder(folder: Path) -> str:
    """The folder of the first module, the transformer, relative to the checkpoint's; empty for that one itself."""
    try:
        return str(json.loads((folder / CHECKPOINT_FILE).read_bytes())[0]["path"])
    except (ValueError, LookupError, TypeError) as error:
        raise FolderError(f"{folder / CHECKPOINT_FILE} is not a list of modules") from error


def _digest(folder: Path) -> str:
    """The ``modelDigest`` of a folder without a manifest: 16 hex digits of the names and contents of its files."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as stream:
            while block := stream.read(HASH_BLOCK_BYTES):
                total.update(block)
    return total.hexdigest()[:16]
