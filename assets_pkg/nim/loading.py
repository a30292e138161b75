"""A folder to serve, of either kind: an ONNX export, or a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.nim.manifest import MANIFEST_FILE, FolderError, ServedModelManifest, read_manifest
from assets_pkg.nim.model import Model, OnnxModel
from assets_pkg.nim.tokenize import TextTokenizer

CHECKPOINT_FILE = "modules.json"
"""What tells a sentence-transformers folder."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer; ``created``: seconds since the epoch."""

    manifest: ServedModelManifest
    tokenizer: TextTokenizer
    model: Model
    created: int


def load_folder(folder: Path, max_length: int | None = None) -> LoadedModel:
    """Load an export in onnxruntime, or a checkpoint in torch, and run it once.

    Raises:
        FolderError: the folder cannot be served; the message names the file at fault.
    """
    if (folder / CHECKPOINT_FILE).is_file() and not (folder / MANIFEST_FILE).exists():
        loaded = _load_checkpoint(folder, max_length)
    else:
        manifest = read_manifest(folder)
        tokenizer = TextTokenizer(folder, manifest, max_length)
        loaded = LoadedModel(
            manifest, tokenizer, OnnxModel(folder, manifest), _written(folder / MANIFEST_FILE)
        )
    loaded.model.warm_up(loaded.tokenizer.encode(["warm up"], "passage"))
    return loaded


def _load_checkpoint(folder: Path, max_length: int | None) -> LoadedModel:
    try:
        from assets_pkg.export.checkpoint_model import TorchModel
    except ImportError as error:
        raise FolderError(
            f"{folder} is a checkpoint without an ONNX export, and serving one needs torch: serve its export, or "
            "install the whole of Retune (pip install retune)"
        ) from error
    model = TorchModel(folder)
    tokenizer = TextTokenizer(folder / _tokenizer_place(folder), model.manifest, max_length)
    return LoadedModel(model.manifest, tokenizer, model, _written(folder / CHECKPOINT_FILE))


def _tokenizer_place(folder: Path) -> str:
    """Where the first module, the transformer, lies: at the top, or in a folder of its own."""
    try:
        return str(json.loads((folder / CHECKPOINT_FILE).read_bytes())[0]["path"])
    except (ValueError, LookupError, TypeError) as error:
        raise FolderError(f"{folder / CHECKPOINT_FILE} is not a list of modules") from error


def _written(path: Path) -> int:
    return int(path.stat().st_mtime)
