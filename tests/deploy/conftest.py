"""A Docker engine with Retune's image in it, and two tiny models to serve."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.deploy.contract import Served, SmokeCheck
from assets_pkg.deploy.server_container import IMAGE_FOLDER, build_image
from assets_pkg.deploy.smoke import smoke_check
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx, load_checkpoint
from assets_pkg.nim.manifest import read_manifest
from assets_pkg.profile import DeploySettings, load_profile
from resources.containers import ContainerEngine
from tests.command.conftest import free_port
from tests.containers.engine import BASE, make_base_image, running_engine

NAME = "tiny"
TEXTS = ("one text", "and another text")


@pytest.fixture(scope="session")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private engine, the one that ``DOCKER_HOST`` names for as long as it runs."""
    with running_engine(tmp_path_factory.mktemp("engine")) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        yield address


@pytest.fixture(scope="session")
def engine(engine_address: str, tmp_path_factory: pytest.TempPathFactory) -> ContainerEngine:
    """The engine with Retune's image built in it, without a registry."""
    make_base_image(engine_address)
    wheels = tmp_path_factory.mktemp("wheels")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    subprocess.run([*download, "-d", wheels, "-r", IMAGE_FOLDER / "requirements.txt"], check=True)
    started = ContainerEngine(engine_address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETUNE_BASE_IMAGE", BASE)
        patch.setenv("RETUNE_WHEELS", str(wheels))
        build_image(started, "retune-nim:latest")
    return started


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Served, Served]:
    """The same weights under two digests."""
    folder = tmp_path_factory.mktemp("models")
    export_onnx(tiny_model, folder / "a", model_id=NAME, model_digest="a" * 16, settings=OnnxExportSettings())
    shutil.copytree(folder / "a", folder / "b")
    read_manifest(folder / "a").model_copy(update={"model_digest": "b" * 16}).write(folder / "b")
    return Served(folder / "a", tiny_model, "a" * 16), Served(folder / "b", tiny_model, "b" * 16)


@pytest.fixture(scope="session")
def smoke(tiny_model: Path) -> SmokeCheck:
    expected = load_checkpoint(tiny_model).encode(list(TEXTS), normalize_embeddings=True)
    return smoke_check(NAME, TEXTS, "passage", np.asarray(expected, dtype=np.float32))


@pytest.fixture
def settings() -> Callable[..., DeploySettings]:
    """The laptop profile's settings on a free port, with changes."""
    port = free_port()

    def make(**changes: object) -> DeploySettings:
        base = {
            "host_port": port,
            "served_model_name": NAME,
            "startup_timeout_s": 60,
            "container_name": f"t{port}",
        }
        profile = load_profile("laptop").deploy.model_dump()
        return DeploySettings.model_validate({**profile, **base, **changes})

    return make
