"""A server whose files were damaged after it was deployed is found, though nothing is stale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.deploy import assets
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Checkpoint, OnnxModel


@pytest.mark.parametrize("damaged", ["onnx", "model"])
def test_the_plan_finds_the_damage_if_the_profile_asks_for_it(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(1000))

    store = ArtifactStore(tmp_path)
    exported = store.build(
        OnnxModel, BuildKey("onnx_model", "1", {}), lambda folder: write("onnx/model.onnx", folder)
    )
    model = store.build(
        Checkpoint,
        BuildKey("checkpoint", "1", {}),
        lambda folder: write("model/consolidated/weights", folder),
    )
    running = SimpleNamespace(alive=lambda: True, serves_its_model=lambda: True, configuration={})
    monkeypatch.setattr(assets, "read_state", lambda folder: running)
    made = dg.AssetMaterialization(
        "running_nim",
        metadata={"retune/artifact": f"onnx_model/{exported.version}", "model_digest": model.version},
    )
    asked, not_asked = (
        load_profile("laptop", [f"deploy.verify_fingerprint={each}"]) for each in ("true", "false")
    )
    assert assets.server_changed(made, asked, store) is None
    path = exported.folder / "model.onnx" if damaged == "onnx" else model.model / "weights"
    path.chmod(0o644)
    path.write_bytes(bytes(999) + b"x")
    assert assets.server_changed(made, not_asked, store) is None
    changed = assets.server_changed(made, asked, store)
    assert changed is not None
    assert f"{path.name} is not what was published" in changed
