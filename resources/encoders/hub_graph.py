"""An ONNX graph of token states, pooled to unit vectors; in onnxruntime."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from assets_pkg.nim.manifest import FolderError, Pooling
from assets_pkg.nim.model import Model, TokenMatrix, Vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

FED = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
POOLED = ("sentence_embedding", "text_embeds")
STATES = ("last_hidden_state", "token_embeddings", "hidden_states")
PROBE = 3
"""Tokens of the first run, which shows the length of the vectors."""


class HubGraph(Model):
    """A graph as `optimum` exports it: token states float [n, t, d], or with pooling inside.

    ``pools``: it gives token states.

    Raises:
        FolderError: it cannot be loaded, or has inputs or outputs of another kind.
    """

    def __init__(self, path: Path, pooling: Pooling) -> None:
        onnxruntime: Any = import_module("onnxruntime")
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the binding raises bare exceptions
            raise FolderError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error
        self._inputs: list[str] = [node.name for node in self._session.get_inputs()]
        if unknown := set(self._inputs) - set(FED):
            raise FolderError(
                f"{path} has inputs {', '.join(sorted(unknown))}, and only {', '.join(FED)} can be fed: "
                "export it without a cache"
            )
        outputs = [node.name for node in self._session.get_outputs()]
        found = next((name for name in (*POOLED, *STATES) if name in outputs), None)
        if found is None:
            raise FolderError(f"{path} has outputs {outputs}, none of {', '.join((*POOLED, *STATES))}")
        self._output, self.pools = found, found in STATES
        self._pooling: Pooling = pooling
        self.provider = "CPUExecutionProvider"
        probe = np.ones((1, PROBE), dtype=np.int64)
        super().__init__(path, int(self._run(probe, probe).shape[1]))

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        positions = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)
        every = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
            "position_ids": positions,
        }
        feed = {name: every[name] for name in self._inputs}
        output = cast("NDArray[Any]", self._session.run([self._output], feed)[0]).astype(np.float32)
        vectors = pool(output, attention_mask, self._pooling) if self.pools else output
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def pool(states: NDArray[np.float32], mask: TokenMatrix, pooling: Pooling) -> NDArray[np.float32]:
    """One state for each row padded on the right: float32 [n, t, d] and int64 [n, t] -> float32 [n, d]."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[np.arange(len(states)), mask.sum(axis=1) - 1]
    weights = mask[:, :, None].astype(np.float32)
    return (states * weights).sum(axis=1) / weights.sum(axis=1)
