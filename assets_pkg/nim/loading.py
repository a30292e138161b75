"""The model that a server runs, loaded from an exported folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.nim.manifest import (
    MANIFEST_FILE,
    FolderError,
    ServedModelManifest,
    check_files,
    read_manifest,
)
from assets_pkg.nim.model import Model, OnnxModel
from assets_pkg.nim.query_map import QueryMap, read_query_map
from assets_pkg.nim.tokens import TextTokenizer

CHECKPOINT_FILE = "modules.json"
"""The file by which a sentence-transformers folder is recognised."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer; ``created``: seconds since the epoch."""

    manifest: ServedModelManifest
    tokenizer: TextTokenizer
    model: Model
    created: int
    query_map: QueryMap | None = None

    def warm_up(self) -> None:
        """Run the model once: the first run is slow, and shows whether graph, tokenizer and manifest agree.

        Raises:
            FolderError: it failed.
        """
        self.model.warm_up(self.tokenizer.encode(["warm up"], "passage"))


Load = Callable[[Path, int | None], LoadedModel]
"""Loads a folder, with a maximum length that replaces the folder's own. Raises `FolderError`."""


def load_export(folder: Path, max_length: int | None = None) -> LoadedModel:
    """An exported folder in onnxruntime.

    Raises:
        FolderError: the folder cannot be served; the message names the file at fault.
    """
    if is_checkpoint(folder):
        raise FolderError(
            f"{folder} is a checkpoint without an ONNX export, and serving one needs torch: serve its export, or "
            f"run `retune serve --folder {folder}` where all of Retune is installed (pip install retune)"
        )
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    tokenizer = TextTokenizer(folder, manifest, max_length)
    return LoadedModel(
        manifest,
        tokenizer,
        OnnxModel(folder, manifest),
        modified(folder / MANIFEST_FILE),
        read_query_map(folder, manifest.dimensions),
    )


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a sentence-transformers checkpoint and no export."""
    return (folder / CHECKPOINT_FILE).is_file() and not (folder / MANIFEST_FILE).exists()


def modified(path: Path) -> int:
    """When the file was last written, seconds since the epoch."""
    return int(path.stat().st_mtime)
