"""How much memory a stage needs, estimated from the sizes of its network before weights are loaded.

The figures are upper bounds of what PyTorch allocates in eager mode; `bench/memory.py` compares them with
measurements. The activations of a block are counted as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4), in
values per token instead of bytes, for feed-forward layers of any width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from resources.models.shape import ModelShape

GB = 1e9
FLOAT32, BFLOAT16 = 4, 2
ADAM_MOMENTS = 8
"""Bytes that AdamW keeps of every trained weight: two float32 averages."""

LIBRARIES = 500_000_000
"""What importing sentence-transformers adds to a process, and the arenas of its threads."""

CUDA_WORKSPACE = 300_000_000
"""Of cuBLAS and of kernels that are loaded at first use."""

CPU_SLACK, CUDA_SLACK = 1.3, 1.2
"""Of activations: freed blocks of other sizes stay with the allocator."""

HIDDEN_KEPT, SCORES_KEPT = 12, 1
"""For backward, per token and block: rows of the network's width, and rows of attention scores where attention is
not fused."""

HIDDEN_DROPPED, SCORES_DROPPED = 4, 1.5
"""What dropout adds: its results and masks."""

HIDDEN_ADAPTED = 16
"""What low-rank adapters add."""

HIDDEN_ALIVE, SCORES_ALIVE = 6, 3
"""The same without backward, where only one block's are alive."""

GRAPH_COPIES = 5.5
"""Of the weights, at the peak of an export: measured between 4.5 and 5.2."""


@dataclass(frozen=True)
class MemoryNeed:
    """The most that ``purpose`` needs: bytes of each part."""

    purpose: str
    parts: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    def times(self, processes: int) -> MemoryNeed:
        """The need of so many processes on one device."""
        if processes == 1:
            return self
        parts = {name: processes * size for name, size in self.parts.items()}
        return MemoryNeed(f"{self.purpose} in {processes} processes", parts)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GB:.2f}" for name, size in self.parts.items())
        return f"{self.total / GB:.2f} GB ({parts})"


@dataclass(frozen=True)
class Batch:
    """The tokens that go through the network at once, padding included, and the longest sequence of them."""

    tokens: int
    length: int


@dataclass(frozen=True)
class Numerics:
    """Where and how a network runs. ``bf16``: under autocast; ``fused``: attention that never holds its scores (sdpa,
    flash); ``weight_bytes`` of each loaded weight."""

    device: str
    bf16: bool = False
    fused: bool = False
    dropout: bool = False
    weight_bytes: int = FLOAT32

    @property
    def slack(self) -> float:
        return CUDA_SLACK if self.device.startswith("cuda") else CPU_SLACK

    @property
    def fixed(self) -> int:
        return CUDA_WORKSPACE if self.device.startswith("cuda") else LIBRARIES


def embedding_need(shape: ModelShape, batch: Batch, how: Numerics) -> MemoryNeed:
    """Weights and the activations of one block: nothing is kept for a backward pass."""
    inner = (3 if shape.gated else 2) * shape.inner
    scores = 0 if how.fused else SCORES_ALIVE * shape.heads * batch.length
    values = batch.tokens * (HIDDEN_ALIVE * shape.hidden + inner + scores)
    return MemoryNeed(
        "embedding",
        {
            "weights": _weights(shape, how),
            "activations": int(how.slack * how.weight_bytes * values),
            "libraries": how.fixed,
        },
    )


def training_need(
    shape: ModelShape,
    batch: Batch,
    how: Numerics,
    *,
    lora_rank: int | None = None,
    checkpointing: bool = False,
) -> MemoryNeed:
    """Weights in float32, what AdamW keeps of the trained ones, and all that is kept for the backward pass.

    Args:
        batch: of one mini-batch where gradients are cached, else of the whole batch.
        lora_rank: only adapters of this rank beside every linear layer are trained.
        checkpointing: each block keeps its input only, and is computed again.
    """
    trained = shape.parameters if lora_rank is None else lora_weights(shape, lora_rank)
    own = 0 if lora_rank is None else trained
    return MemoryNeed(
        "training",
        {
            "weights": _weights(shape, how) + FLOAT32 * own,
            # A gradient is whole before it is added to what is there.
            "gradients": FLOAT32 * (trained + (shape.largest if lora_rank is None else 0)),
            "optimizer": ADAM_MOMENTS * trained,
            "activations": _kept(shape, batch, how, lora=lora_rank is not None, checkpointing=checkpointing),
            "libraries": how.fixed,
        },
    )


def export_need(shape: ModelShape) -> MemoryNeed:
    """Weights in float32 on the CPU, and the graph's copies of them while it is traced, read back and written."""
    weights = FLOAT32 * shape.parameters
    graph = int(GRAPH_COPIES * weights)
    return MemoryNeed("exporting", {"weights": weights, "graph": graph, "libraries": LIBRARIES})


def loading_need(shape: ModelShape, how: Numerics) -> MemoryNeed:
    """Weights alone."""
    return MemoryNeed("loading the model", {"weights": _weights(shape, how), "libraries": how.fixed})


def lora_weights(shape: ModelShape, rank: int) -> int:
    """Values of two thin matrices beside every linear layer: ``rank`` x (inputs + outputs)."""
    return sum(rank * (outputs + inputs) for outputs, inputs in shape.linear)


def _weights(shape: ModelShape, how: Numerics) -> int:
    """The weights, with the copies that autocast makes of matrices."""
    return shape.parameters * (how.weight_bytes + (BFLOAT16 if how.bf16 else 0))


def _kept(shape: ModelShape, batch: Batch, how: Numerics, *, lora: bool, checkpointing: bool) -> int:
    """Bytes of activations at the end of a forward pass and in the widest moment of backward."""
    values = batch.tokens * _values_per_token(
        shape, batch.length, how, lora=lora, checkpointing=checkpointing
    )
    return int(how.slack * FLOAT32 * values)


def _values_per_token(
    shape: ModelShape, length: int, how: Numerics, *, lora: bool, checkpointing: bool
) -> float:
    rows = HIDDEN_KEPT + HIDDEN_DROPPED * how.dropout + HIDDEN_ADAPTED * lora
    inner = (4 if shape.gated else 2) * shape.inner
    # The fused kernels of a CPU know no dropout.
    fused = how.fused and (not how.dropout or how.device.startswith("cuda"))
    scores = 0 if fused else shape.heads * length
    block = rows * shape.hidden + inner + (SCORES_KEPT + SCORES_DROPPED * how.dropout) * scores
    # Of one block there are at the same time what is kept, its gradients, and scores before they are normalised.
    widest = 2 * block + SCORES_ALIVE * scores
    if not checkpointing:
        return block * (shape.layers - 1) + widest
    # Each block keeps its input only. On a CPU those that are computed again leave gaps behind (measured).
    gaps = 0 if how.device.startswith("cuda") else 4 * block
    return shape.hidden * (shape.layers + 2) + widest + gaps
