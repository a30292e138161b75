"""The engine's plan, and what is said where it cannot be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.export import TensorrtSettings
from assets_pkg.export import tensorrt
from assets_pkg.export.exportable import ExportError
from assets_pkg.export.tensorrt import build_engine, plan_engine
from resources.machine.accelerator import Accelerator


def _settings(*overrides: str) -> TensorrtSettings:
    return load_profile("laptop", overrides).export.part(TensorrtSettings)


def test_the_plan_has_shapes_for_every_input_and_the_precisions(tmp_path: Path) -> None:
    plan = plan_engine(
        _settings("trt_max_batch=8", "trt_opt_batch=4", "trt_layer_precisions=['*Norm*:fp32']")
    )
    command = plan.command(tmp_path / "model.onnx", tmp_path / "model.plan")
    assert command[:3] == ["trtexec", f"--onnx={tmp_path}/model.onnx", f"--saveEngine={tmp_path}/model.plan"]
    assert "--minShapes=input_ids:1x3,attention_mask:1x3" in command
    assert "--optShapes=input_ids:4x128,attention_mask:4x128" in command
    assert "--maxShapes=input_ids:8x512,attention_mask:8x512" in command
    assert command[-3:] == ["--fp16", "--precisionConstraints=obey", "--layerPrecisions=*Norm*:fp32"]


def test_without_a_gpu_it_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "find_accelerator", _no_gpu)
    with pytest.raises(
        ExportError, match=r"there is none here\. On a machine that has both: trtexec --onnx="
    ):
        build_engine(plan_engine(_settings()), tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ProfileError, match="trt_opt_batch = 16: must lie between 1 and 8"):
        _settings("trt_max_batch=8")


def _no_gpu() -> Accelerator:
    return Accelerator(device="cpu", name="CPU", bf16=False, memory_bytes=0)
