"""A TensorRT engine of the exported graph: planned on any machine, built on one with a GPU and ``trtexec``.

The flags are those of https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.sections.export import TensorrtSettings
from assets_pkg.export.exportable import ExportError
from assets_pkg.export.onnx import INPUT_NAMES
from assets_pkg.nim.manifest import DIMENSIONS_INPUT, MODEL_FILE, QUERY_MAP_FILE
from resources.machine.accelerator import find_accelerator

ENGINE_FILE = "model.plan"
PRECISION_FLAGS = {"fp32": [], "fp16": ["--fp16"], "bf16": ["--bf16"]}


@dataclass(frozen=True)
class TensorrtPlan:
    """An engine to build; ``shapes`` are (batch, sequence): minimum, optimum and maximum."""

    shapes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    precision: str
    overrides: tuple[str, ...]
    with_dimensions: bool = False

    def shell(self, exported: Path, folder: Path) -> str:
        """The command for the graph in ``exported`` and an engine in ``folder``, as a line for a shell."""
        return shlex.join(self.command(exported / MODEL_FILE, folder / ENGINE_FILE))

    def command(self, graph: Path, engine: Path) -> list[str]:
        """The ``trtexec`` command."""
        command = ["trtexec", f"--onnx={graph}", f"--saveEngine={engine}", "--skipInference"]
        for option, (batch, sequence) in zip(("min", "opt", "max"), self.shapes, strict=True):
            shape = ",".join(f"{name}:{batch}x{sequence}" for name in INPUT_NAMES)
            shape += f",{DIMENSIONS_INPUT}:{batch}" if self.with_dimensions else ""
            command.append(f"--{option}Shapes={shape}")
        command += PRECISION_FLAGS[self.precision]
        if self.overrides:
            command += ["--precisionConstraints=obey", f"--layerPrecisions={','.join(self.overrides)}"]
        return command


def plan_engine(settings: TensorrtSettings, *, with_dimensions: bool = False) -> TensorrtPlan:
    """The engine that the settings describe; ``with_dimensions``: of a graph with that input."""
    shapes = (
        (settings.trt_min_batch, settings.trt_min_seq),
        (settings.trt_opt_batch, settings.trt_opt_seq),
        (settings.trt_max_batch, settings.trt_max_seq),
    )
    return TensorrtPlan(shapes, settings.trt_precision, tuple(settings.trt_layer_precisions), with_dimensions)


def build_engine(plan: TensorrtPlan, exported: Path, folder: Path) -> Path:
    """Build the engine of the graph in ``exported`` and return its file in ``folder``.

    Raises:
        ExportError: there is no GPU or no ``trtexec`` (the message has the command for a machine with both), or
            ``trtexec`` failed.
    """
    if (exported / QUERY_MAP_FILE).is_file():
        raise ExportError(
            "a TensorRT engine would give questions the vectors of passages: the model has a matrix on those of "
            "questions alone (finetune.adapter_side=query), which only Retune's server applies"
        )
    command, where = (
        plan.command(exported / MODEL_FILE, folder / ENGINE_FILE),
        _where(plan.shell(exported, folder)),
    )
    if not find_accelerator().device.startswith("cuda"):
        raise ExportError(
            f"a TensorRT engine is built on the GPU that runs it, and there is none here. {where}"
        )
    if shutil.which(command[0]) is None:
        raise ExportError(f"trtexec is not on the PATH: install TensorRT, or use its container. {where}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ExportError("trtexec failed:\n" + "\n".join(done.stdout.splitlines()[-15:]))
    for path in exported.iterdir():  # a NIM takes the tokenizer from beside the engine
        if path.name.startswith(MODEL_FILE):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        else:
            shutil.copy(path, folder / path.name)
    return folder / ENGINE_FILE


def _where(command: str) -> str:
    return f"On a machine that has both: {command}"
