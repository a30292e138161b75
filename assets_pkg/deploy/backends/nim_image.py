"""How NVIDIA's NIM images take a model of one's own, by their version.

Sources: https://docs.nvidia.com/nim/nemo-retriever/text-embedding/latest/fine-tuned-models.html (1.x),
https://docs.nvidia.com/nim/nemo-retriever/embedding/2.4/model-artifacts.html (2.x), and the recipe's
``stage5_deploy/deploy.py`` of NVIDIA-NeMo/Nemotron (2.1 is the first that reads ``NIM_ENGINE_MODEL_PATH``).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.server_state import DeployError, ServedModel
from assets_pkg.nim.manifest import MANIFEST_FILE

USER = "root"
"""A NIM writes to its cache, which belongs to another user than its own (the recipe's ``-u root``)."""


@dataclass(frozen=True)
class NimContract:
    """``path_variable`` names the model's folder inside, ``name_variable`` the name that it is served by.

    ``takes``: an exported graph or engine, or the checkpoint itself. ``cache``: the folder inside that is kept.
    """

    path_variable: str
    name_variable: str
    takes: str
    inside: str
    cache: str


EXPORT, CHECKPOINT = "export", "checkpoint"
CONTRACTS: tuple[tuple[tuple[int, int], NimContract], ...] = (
    (
        (1, 0),
        NimContract(
            "NIM_CUSTOM_MODEL", "NIM_SERVED_MODEL_NAME", EXPORT, "/opt/nim/custom_model", "/opt/nim/.cache"
        ),
    ),
    ((2, 0), NimContract("NIM_MODEL_PATH", "NIM_MODEL_NAME", CHECKPOINT, "/model", "/opt/cache")),
    (
        (2, 1),
        NimContract("NIM_ENGINE_MODEL_PATH", "NIM_ENGINE_MODEL_NAME", CHECKPOINT, "/model", "/opt/cache"),
    ),
)
"""By the first version that has them."""


def contract_of(image: str) -> NimContract:
    """The contract of an image, by its tag; of one without a version, the newest."""
    found = re.search(r":v?(\d+)(?:\.(\d+))?[^:/]*$", image)
    version = (int(found[1]), int(found[2] or 0)) if found else CONTRACTS[-1][0]
    known = [contract for first, contract in CONTRACTS if first <= version]
    return known[-1] if known else CONTRACTS[0][1]


def needs_engine(settings: DeploySettings) -> bool:
    """Whether these settings serve the TensorRT engine: a NIM that takes an export, and ``use_onnx`` is false."""
    nim = settings.backend == "docker" and settings.server == "nim"
    return nim and not settings.use_onnx and contract_of(settings.nim_image).takes == EXPORT


def mounted_model(served: ServedModel, settings: DeploySettings) -> Path:
    """The folder that the container of these settings serves.

    Raises:
        DeployError: it is the engine's, and there is none of this export.
    """
    if settings.server == "retune":
        return served.onnx
    served.refuse_query_map(settings.nim_image)
    if contract_of(settings.nim_image).takes == CHECKPOINT:
        if (served.checkpoint / MANIFEST_FILE).is_file():
            raise DeployError(
                f"{settings.nim_image} serves checkpoints, and the promoted model is an ONNX export: give the folder "
                "of its checkpoint as deploy.model_dir, or an image of version 1"
            )
        return served.checkpoint
    if settings.use_onnx:
        return served.onnx
    if served.engine is None:
        raise DeployError(
            f"deploy.use_onnx=false: {settings.nim_image} then serves the TensorRT engine, and there is none of the "
            "current export: retune export export_to_trt=true"
        )
    return served.engine


def host_cache() -> Path:
    """The folder of this machine that NIM containers keep as their cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nim"
