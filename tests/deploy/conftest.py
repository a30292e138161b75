"""Two tiny models to serve."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.assets import server_changed
from assets_pkg.deploy.deploy import deploy, read_state
from assets_pkg.deploy.server_state import RunningServer, ServedModel, SmokeCheck, smoke_check
from assets_pkg.export.onnx import OnnxExportSettings, export_onnx, load_checkpoint
from assets_pkg.nim.manifest import read_manifest
from resources.containers import ContainerEngine
from storage.artifact_store import ArtifactStore
from storage.paths import STATE_FOLDER
from tests.loopback import free_port

NAME = "tiny"
TEXTS = ("one text", "and another text")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[ServedModel, ServedModel]:
    """The same weights under two digests."""
    folder = tmp_path_factory.mktemp("models")
    export_onnx(tiny_model, folder / "a", model_id=NAME, model_digest="a" * 16, settings=OnnxExportSettings())
    shutil.copytree(folder / "a", folder / "b")
    read_manifest(folder / "a").model_copy(update={"model_digest": "b" * 16}).write(folder / "b")
    return ServedModel(folder / "a", tiny_model, "a" * 16), ServedModel(folder / "b", tiny_model, "b" * 16)


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


def no_engine() -> ContainerEngine:
    raise AssertionError("no container is needed")


class Deployments:
    """Deployments of one project as server processes."""

    def __init__(self, root: Path, settings: DeploySettings, smoke: SmokeCheck):
        self.store = ArtifactStore(root)
        self.folder = self.store.root / STATE_FOLDER
        self.settings, self.smoke = settings, smoke

    def deploy(self, served: ServedModel) -> RunningServer:
        return deploy(served, self.settings, self.folder, self.smoke, no_engine)

    def changed(self) -> str | None:
        profile = load_profile("laptop").model_copy(update={"deploy": self.settings})
        return server_changed(None, profile, self.store)  # type: ignore[arg-type]


@pytest.fixture
def deployments(
    tmp_path: Path,
    settings: Callable[..., DeploySettings],
    smoke: SmokeCheck,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployments]:
    monkeypatch.delenv("RETUNE_API_KEY", raising=False)
    made = Deployments(tmp_path / "output", settings(backend="process"), smoke)
    yield made
    state = read_state(made.folder)
    if state is not None:
        state.stop()
