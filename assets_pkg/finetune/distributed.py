"""Several processes as one: each embeds its share of every batch, the loss is that of the whole batch.

What a process computes is the full loss, of which only its own embeddings carry a gradient; gradients of all
processes add up to those of one process with the whole batch. (Averaging wrappers would need equal shares, and a
gradient cache more than one backward pass between two averages.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

NOTHING = -1

T = TypeVar("T")


def start(device: str) -> str:
    """Join the other processes that ``torchrun`` or ``accelerate launch`` started; returns this one's device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda"):
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and reports."""
    return rank() == 0


def wait_for_all() -> None:
    if processes() > 1:
        dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do."""
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


def agreed(value: T) -> T:
    """The main process's value, for decisions that all must take alike."""
    if processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def whole_batch(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The batch of all processes, from this one's share: arguments of ``info_nce``.

    Passages that several processes hold appear once, as they would in one process. Only this process's own rows
    carry a gradient.
    """
    if processes() == 1:
        return queries, passages, label
    numbers = _gather(label["passages"][:, None])[:, 0]
    positives = _gather(label["passages"][label["target"]][:, None])[:, 0]
    distinct, place = torch.unique(numbers, return_inverse=True)
    rows = torch.arange(len(numbers), device=numbers.device)
    first = torch.full_like(distinct, len(numbers)).scatter_reduce_(0, place, rows, "amin")
    whole = {
        "passages": distinct,
        "target": torch.searchsorted(distinct, positives),
        "known": _gather(label["known"]),
        "negatives": _gather(label["negatives"]),
    }
    return _gather(queries), _gather(passages)[first], whole


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up every parameter's gradient over all processes, in place."""
    if processes() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def _gather(own: Tensor) -> Tensor:
    """Rows of all processes, [n, d] each with its own n, in the processes' order; narrower rows of whole numbers
    are filled up with -1. The gradient flows to this process's rows."""
    shape = torch.tensor(own.shape, device=own.device)
    shapes = [torch.empty_like(shape) for _ in range(processes())]
    dist.all_gather(shapes, shape)
    height, width = torch.stack(shapes).amax(0).tolist()
    padded = own.new_full((height, width), NOTHING)
    padded[: own.shape[0], : own.shape[1]] = own.detach()
    everyone = [torch.empty_like(padded) for _ in range(processes())]
    dist.all_gather(everyone, padded)
    parts = [part[: int(size[0])] for part, size in zip(everyone, shapes, strict=True)]
    if own.requires_grad:
        parts[rank()] = own
    return torch.cat(parts)
