"""What a NIM of each version serves, and by which variable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.docker import container_spec
from assets_pkg.deploy.backends.nim_image import needs_engine
from assets_pkg.deploy.server_state import DeployError, ServedModel

SERVED = ServedModel(Path("/made/onnx"), Path("/made/checkpoint"), "d" * 16, Path("/made/engine"))


def _settings(*overrides: str) -> DeploySettings:
    return load_profile("default", overrides, section="deploy").deploy


@pytest.mark.parametrize(
    ("image", "use_onnx", "variable", "mounted"),
    [
        ("nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.10.1", "true", "NIM_CUSTOM_MODEL", "/made/onnx"),
        ("nvcr.io/nim/nvidia/llama-3.2-nv-embedqa-1b-v2:1.10.1", "false", "NIM_CUSTOM_MODEL", "/made/engine"),
        ("nvcr.io/nim/nvidia/nemotron-2-embed-vl:2.0.0", "true", "NIM_MODEL_PATH", "/made/checkpoint"),
        ("nvcr.io/nim/nvidia/nemotron-3-embed-1b:2.1.0", "true", "NIM_ENGINE_MODEL_PATH", "/made/checkpoint"),
        (
            "nvcr.io/nim/nvidia/nemotron-3-embed-1b:2.2.0",
            "false",
            "NIM_ENGINE_MODEL_PATH",
            "/made/checkpoint",
        ),
        ("registry:5000/nim", "true", "NIM_ENGINE_MODEL_PATH", "/made/checkpoint"),
    ],
)
def test_the_version_of_the_image_decides(
    image: str, use_onnx: str, variable: str, mounted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    spec = container_spec(SERVED, _settings(f"nim_image={image}", f"use_onnx={use_onnx}"), Path("/state"))
    inside = spec.environment[variable]
    assert [name for name in spec.environment if name.endswith(("_PATH", "CUSTOM_MODEL"))] == [variable]
    command = spec.shell()
    assert f"--volume {mounted}:{inside}:ro" in command
    assert "--volume /cache/nim:/opt/" in command
    assert "--user root" in command
    assert "--env NGC_API_KEY " in command
    assert "nvidia/llama-3.2-nv-embedqa-1b-v2" in spec.environment.values()


def test_without_an_engine_it_is_said_how_to_build_one() -> None:
    with pytest.raises(DeployError, match="retune export export_to_trt=true"):
        container_spec(replace(SERVED, engine=None), _settings("use_onnx=false"), Path("/state"))


def test_only_a_nim_that_takes_exports_needs_the_engine() -> None:
    assert needs_engine(_settings("use_onnx=false"))
    assert not needs_engine(_settings())
    assert not needs_engine(_settings("use_onnx=false", "server=retune"))
    assert not needs_engine(_settings("use_onnx=false", "nim_image=a/b:2.2.0"))
