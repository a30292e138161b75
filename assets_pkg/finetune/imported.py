"""A model folder that a user brings, as a checkpoint of the graph: from the recipe, or from any trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.config.base import ModelSettings, Settings
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.imported_export import exported_from, exported_graph, import_export
from assets_pkg.orchestration.asset_context import AssetContext
from resources.configurable import AcceleratorResource
from storage.artifacts import CHECKPOINTS, Checkpoint
from storage.digests import digest_json

SOURCE, FINGERPRINT = "imported_from", "imported_fingerprint"


class ImportSettings(Settings):
    """Where a model was imported from."""

    imported_model: str


def import_model(
    asset: AssetContext, settings: ModelSettings, source: str, accelerator: AcceleratorResource
) -> Checkpoint:
    """The model folder ``source`` as a checkpoint with the prompts and lengths of the settings, or the exported model
    in it. Its files are copied, and not changed.

    Raises:
        BaseModelError: no such folder, or no model that can be used; the message names the file.
    """
    fingerprint = folder_fingerprint(source)
    named = settings.model_copy(update={"base_model": str(Path(source).expanduser()), "revision": None})

    graph = exported_graph(Path(source).expanduser())
    if graph is not None and (own := _exported_here(asset, graph)) is not None:
        asset.note(f"{source} is the export of {own.asset} {own.version}")
        return own

    def produce(folder: Path) -> None:
        if graph is not None:
            import_export(graph, settings, folder)
            return
        fetch_base_model(named, folder, asset.progress(), accelerator.host())

    model = asset.build(Checkpoint, produce, outside={"model": fingerprint})
    asset.note(f"imported {source} as {model.version}")
    if warning := model.summary().get("warning"):
        asset.note(warning)
    return model


def _exported_here(asset: AssetContext, graph: Path) -> Checkpoint | None:
    """The checkpoint of this project that the graph was exported from, if it was."""
    version = exported_from(graph)
    for name in CHECKPOINTS:
        if version and asset.store.has(name, version):
            return asset.store.get(Checkpoint, name, version)
    return None


def imported_from(source: str | None) -> dict[str, Any]:
    """The metadata of an imported model: where it comes from, and its fingerprint. Nothing without ``source``."""
    if source is None:
        return {}
    return {SOURCE: dg.MetadataValue.path(source), FINGERPRINT: folder_fingerprint(source)}


def imported_folder_changed(made: dg.AssetMaterialization, source: str | None) -> str | None:
    """Whether the folder ``source`` is another than the one that was imported; None where none is imported."""
    before = made.metadata.get(FINGERPRINT)
    if source is None or before is None or before.value == folder_fingerprint(source):
        return None
    return f"{source} changed"


def folder_fingerprint(source: str) -> str:
    """Digest of names, sizes and times of the folder's files.

    Raises:
        BaseModelError: there is no such folder.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise BaseModelError(f"{source}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return digest_json([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
