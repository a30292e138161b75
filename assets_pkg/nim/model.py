"""From a padded batch to unit vectors; in onnxruntime."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from assets_pkg.nim.batching import pad
from assets_pkg.nim.manifest import (
    DIMENSIONS_INPUT,
    MODEL_FILE,
    OUTPUT_NAME,
    FolderError,
    ServedModelManifest,
)
from assets_pkg.nim.tokens import TokenIds

Vectors = npt.NDArray[np.float32]
TokenMatrix = npt.NDArray[np.int64]

PREFERRED_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
NORM_TOLERANCE = 0.01

LARGE_BATCH_TOKENS = 2048
"""The memory of a batch of more padded tokens than this is released after it.

onnxruntime keeps the memory of the largest batch that it has run. For usual batches that saves a third of the time,
otherwise spent on allocation; after a large one it would occupy gigabytes for ever.
"""


class BadOutputError(Exception):
    """The model's output is not unit vectors, for example NaN; none of it is returned."""


def usable_cpus() -> int:
    """The number of cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or the quota is "max"
        return cores


class Model(ABC):
    """A model of unit vectors, safe to run from many threads at once.

    Each call uses one core: parallel calls use the cores better than one call spread over them.
    """

    provider: str
    """What runs the model, for the log."""

    def __init__(self, path: Path, dimensions: int) -> None:
        self._path = path
        self.dimensions = dimensions

    @abstractmethod
    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        """The vectors of one padded batch, unchecked."""

    def warm_up(self, rows: Sequence[TokenIds]) -> None:
        """Run once: the first run is slow, and fails if graph, tokenizer and manifest do not fit together.

        Raises:
            FolderError: it failed.
        """
        try:
            self.embed(rows)
        except Exception as error:
            raise FolderError(f"{self._path} cannot be run: {' '.join(str(error).split())}") from error

    def embed(self, rows: Sequence[TokenIds]) -> Vectors:
        """Embed token id rows as one batch: float32 [rows, dimensions], every row of length 1.

        Raises:
            BadOutputError: a row is not finite or not of length 1.
        """
        vectors = self._run(*pad(rows))
        if vectors.shape != (len(rows), self.dimensions) or vectors.dtype != np.float32:
            raise BadOutputError(f"the model gave {vectors.dtype} {vectors.shape}")
        norms = np.linalg.norm(vectors, axis=1)
        # Written so that NaN fails it.
        if not np.all(np.abs(norms - 1) < NORM_TOLERANCE):
            raise BadOutputError("the model gave a vector that is not finite and of length 1")
        return vectors


class OnnxModel(Model):
    """The graph of an exported folder in onnxruntime."""

    def __init__(self, folder: Path, manifest: ServedModelManifest) -> None:
        path = folder / MODEL_FILE
        super().__init__(path, manifest.dimensions)
        if "CUDAExecutionProvider" in (providers := _providers()):
            ort.preload_dlls()  # NVIDIA's libraries from their packages
        try:
            self._session = ort.InferenceSession(str(path), _options(), providers=providers)
        except Exception as error:  # the binding raises bare exceptions
            reason = " ".join(str(error).split())
            raise FolderError(f"{path} cannot be loaded: {reason}") from error
        self._other_inputs = _check_inputs(self._session, path)
        self.provider = self._session.get_providers()[0]

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        if "token_type_ids" in self._other_inputs:
            feed["token_type_ids"] = np.zeros_like(input_ids)
        if DIMENSIONS_INPUT in self._other_inputs:  # always all of them: the service cuts
            feed[DIMENSIONS_INPUT] = np.full(len(input_ids), self.dimensions, dtype=np.int64)
        options = _release_memory() if input_ids.size > LARGE_BATCH_TOKENS else None
        return cast(Vectors, self._session.run([OUTPUT_NAME], feed, options)[0])


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _release_memory() -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _providers() -> list[str]:
    available = ort.get_available_providers()
    return [name for name in PREFERRED_PROVIDERS if name in available]


def _check_inputs(session: ort.InferenceSession, path: Path) -> list[str]:
    """The names of the other inputs, once the graph is known to be one that this server can run."""
    names = [node.name for node in session.get_inputs()]
    unknown = set(names) - {"input_ids", "attention_mask", "token_type_ids", DIMENSIONS_INPUT}
    missing = {"input_ids", "attention_mask"} - set(names)
    if unknown or missing:
        raise FolderError(
            f"{path} has inputs {names}; input_ids and attention_mask are needed and can be fed"
        )
    if OUTPUT_NAME not in [node.name for node in session.get_outputs()]:
        raise FolderError(f"{path} has no output named {OUTPUT_NAME}")
    return [name for name in names if name in ("token_type_ids", DIMENSIONS_INPUT)]
