"""The image of Retune's own embedding server: built from the package's files, and again when those are others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from assets_pkg.config.sections.deploy import DeploySettings
from resources.containers import ContainerEngine, ContainerError
from storage.digests import digest_file, digest_tree
from storage.progress import Note

IMAGE_FOLDER = Path(__file__).parents[2] / "nim"
SOURCE_LABEL = "retune.source"
Variant = Literal["cpu", "gpu"]


def image_variant(settings: DeploySettings) -> Variant:
    """Which of the two images these settings need."""
    return "gpu" if settings.gpus else "cpu"


def provide_image(engine: ContainerEngine, image: str, variant: Variant, note: Note) -> None:
    """Build the image where it is missing or of other sources; where that fails, as without a registry, one that was
    built here before serves on."""
    if not _must_be_built(engine, image, variant):
        return
    try:
        build_image(engine, image, variant)
    except ContainerError as error:
        if not engine.has_image(image):
            raise
        note(f"{image} was built from other sources than this version's, and is used as it is: {error}")


def _must_be_built(engine: ContainerEngine, image: str, variant: Variant) -> bool:
    """Whether there is no such image, or it was built here from other sources, as by an earlier version.

    An image of the user's own, which has no such label, is left alone.
    """
    built_from = engine.image_label(image, SOURCE_LABEL) if engine.has_image(image) else ""
    return built_from is not None and built_from != _sources(variant)


def _sources(variant: Variant) -> str:
    """The variant, and the digest of what it is built from."""
    patterns = ("Dockerfile", "*.lock", "*.py")
    files = [file for pattern in patterns for file in sorted(IMAGE_FOLDER.glob(pattern))]
    return f"{variant}-{digest_tree((file.name, digest_file(file)) for file in files)}"


def build_image(engine: ContainerEngine, tag: str, variant: Variant = "cpu") -> None:
    """Build Retune's own image. `RETUNE_BASE_IMAGE` and `RETUNE_WHEELS` (a folder) replace the registries."""
    arguments: dict[str, str] = {"VARIANT": variant}
    with tempfile.TemporaryDirectory(prefix="retune-image-") as work:
        context = Path(work) / "nim"
        shutil.copytree(IMAGE_FOLDER, context, ignore=shutil.ignore_patterns("__pycache__"))
        if base := os.environ.get("RETUNE_BASE_IMAGE"):
            arguments["BASE"] = base
        if wheels := os.environ.get("RETUNE_WHEELS"):
            shutil.copytree(wheels, context / "wheels")
            arguments["PIP_OPTIONS"] = "--no-index"
        engine.build(context, tag, arguments, {SOURCE_LABEL: _sources(variant)})
