"""Where a model's weights are on this machine or its server is, or why it cannot be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resources.models.entry import ModelEntry

WEIGHTS_FOLDER = "embedding_models"
WEIGHTS_ENVIRONMENT = "RETUNE_EMBEDDING_MODELS"
CONFIG_FILES = ("config.json", "modules.json", "retune_model.json")
REMOTE_DOCS = "docs/remote-models.md"


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is. ``folder`` for weights here, ``url`` for a server; with neither, ``reason`` is the explanation.

    ``kind``: below ``embedding_models/``, in the Hugging Face cache, in an installed package, on a server.
    """

    kind: Literal["folder", "cache", "package", "server", "missing"]
    folder: Path | None = None
    url: str | None = None
    reason: str = ""


def weights_root() -> Path:
    """The folder with one folder for each model: ``embedding_models`` here, or what the environment names."""
    return Path(os.environ.get(WEIGHTS_ENVIRONMENT) or WEIGHTS_FOLDER)


def weights_folder(name: str, entry: ModelEntry, root: Path | None = None) -> Path:
    """Where the weights of a model belong below ``embedding_models/``."""
    return (root or weights_root()) / (entry.folder or name)


def _named_as_on_hub(entry: ModelEntry, root: Path | None) -> Path | None:
    """The folder that has the hub's own name of the model, as CLIP-CC-Bench's have."""
    return None if entry.hub_id is None else (root or weights_root()) / entry.hub_id.rpartition("/")[2]


def find_model(name: str, entry: ModelEntry, root: Path | None = None) -> ModelLocation:
    """Where the model can be used from: weights here if its adapter can run them, else its server.

    Nothing is loaded and no server is asked; a folder that is there may still be broken
    (see `resources.models.files.check_files`).
    """
    if entry.adapter != "http":
        here = find_weights(name, entry, root)
        unmet = unmet_requirement(entry)
        if here is not None and unmet is None:
            return here
        if entry.base_url is None:
            return ModelLocation(
                "missing", reason=unmet if here is not None and unmet else _not_here(name, entry, root)
            )
    return _server(entry)


def find_weights(name: str, entry: ModelEntry, root: Path | None = None) -> ModelLocation | None:
    """The weights on this machine: below ``embedding_models/``, in the Hugging Face cache, in the package."""
    for folder in (weights_folder(name, entry, root), _named_as_on_hub(entry, root)):
        if folder is not None and _holds_model(folder):
            return ModelLocation("folder", folder=folder)
    cached = _in_hub_cache(entry)
    if cached is not None:
        return ModelLocation("cache", folder=cached)
    packaged = _in_package(entry)
    return None if packaged is None else ModelLocation("package", folder=packaged)


def unmet_requirement(entry: ModelEntry) -> str | None:
    """The first package whose installed version the model cannot be run with, as text; None if all fit."""
    from packaging.specifiers import SpecifierSet

    for package, wanted in entry.requires.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"needs {package} {wanted}, which is not installed"
        if not SpecifierSet(wanted).contains(installed, prereleases=True):
            return f"needs {package} {wanted}, and {installed} is installed"
    return None


def _server(entry: ModelEntry) -> ModelLocation:
    if entry.base_url is None:
        return ModelLocation(
            "missing",
            reason=f"runs only behind a server, and its entry has no base_url: see {REMOTE_DOCS} for how to serve it",
        )
    if entry.api_key_env and not os.environ.get(entry.api_key_env):
        return ModelLocation(
            "missing", reason=f"{entry.api_key_env} is not set, the key for {entry.base_url}"
        )
    return ModelLocation("server", url=entry.base_url)


def _not_here(name: str, entry: ModelEntry, root: Path | None) -> str:
    folder = weights_folder(name, entry, root)
    if folder.is_dir():
        return f"{folder} holds no model (none of {', '.join(CONFIG_FILES)}): retune models download {name}"
    return f"no weights in {folder} nor in the Hugging Face cache: retune models download {name}"


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIG_FILES)


def _in_hub_cache(entry: ModelEntry) -> Path | None:
    if entry.hub_id is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.hub_id, "config.json", revision=entry.revision)
    return Path(found).parent if isinstance(found, str) else None


def _in_package(entry: ModelEntry) -> Path | None:
    if entry.package is None:
        return None
    package, _, inside = entry.package.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / inside
    return folder if _holds_model(folder) else None
