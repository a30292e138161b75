"""Several processes as one: each embeds its share of every batch, the loss is that of the whole batch.

What a process computes is the full loss, of which only its own embeddings carry a gradient; gradients of all
processes add up to those of one process with the whole batch. (Averaging wrappers would need equal shares, and a
gradient cache more than one backward pass between two averages.)

One process may run out of memory where others do not. So before they exchange anything within a step, all tell each
other whether memory sufficed (``check_in``), and none is left waiting for one that has given up. What an exchange
needs is allocated before that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

NOTHING = -1

T = TypeVar("T")


class OutOfMemoryInPeer(torch.OutOfMemoryError):
    """Another process ran out of memory in this step."""


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


def check_in(device: torch.device, ran_out: bool = False) -> None:
    """Tell the other processes whether this one ``ran_out`` of memory since they last met, and hear it of them.

    Raises:
        OutOfMemoryElsewhere: another one did, and this one did not.
    """
    if processes() == 1:
        return
    failed = torch.tensor([float(ran_out)], device=device)
    dist.all_reduce(failed)
    if failed.item() > 0 and not ran_out:
        raise OutOfMemoryInPeer("another process of the training ran out of memory")


def whole_batch(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The batch of all processes, from this one's share: arguments of ``info_nce``.

    Passages that several processes hold appear once, as they would in one process. Only this process's own rows
    carry a gradient.

    Raises:
        OutOfMemoryElsewhere: another process will not come.
    """
    if processes() == 1:
        return queries, passages, label
    own = [
        label["passages"][:, None],
        label["passages"][label["target"]][:, None],
        label["known"],
        label["negatives"],
        queries,
        passages,
    ]
    numbers, positives, known, negatives, all_queries, all_passages = _gather(own)
    numbers, positives = numbers[:, 0], positives[:, 0]
    distinct, place = torch.unique(numbers, return_inverse=True)
    rows = torch.arange(len(numbers), device=numbers.device)
    first = torch.full_like(distinct, len(numbers)).scatter_reduce_(0, place, rows, "amin")
    whole = {
        "passages": distinct,
        "target": torch.searchsorted(distinct, positives),
        "known": known,
        "negatives": negatives,
    }
    return all_queries, all_passages[first], whole


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up every parameter's gradient over all processes, in place."""
    if processes() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def _gather(own: Sequence[Tensor]) -> list[Tensor]:
    """Of each tensor, the rows of all processes, [n, d] each with its own n, in the processes' order; narrower rows of
    whole numbers are filled up with -1. The gradient flows to this process's rows."""
    check_in(own[0].device)
    shapes = _everyones(torch.tensor([each.shape for each in own], device=own[0].device))
    largest = shapes.amax(0).tolist()
    padded = [_pad(each, height, width) for each, (height, width) in zip(own, largest, strict=True)]
    room = [each.new_empty((processes(), *each.shape)) for each in padded]
    check_in(own[0].device)
    for each, everyone in zip(padded, room, strict=True):
        dist.all_gather_into_tensor(everyone.flatten(0, 1), each)
    heights = shapes[:, :, 0].T.tolist()
    return [_rows(*each) for each in zip(own, room, heights, strict=True)]


def _everyones(own: Tensor) -> Tensor:
    """A small tensor of every process, of one shape: [processes, ...]."""
    room = own.new_empty((processes(), *own.shape))
    dist.all_gather_into_tensor(room.flatten(0, 1), own)
    return room


def _pad(own: Tensor, height: int, width: int) -> Tensor:
    padded = own.new_full((height, width), NOTHING)
    padded[: own.shape[0], : own.shape[1]] = own.detach()
    return padded


def _rows(own: Tensor, everyone: Tensor, heights: Sequence[int]) -> Tensor:
    parts = [part[:height] for part, height in zip(everyone, heights, strict=True)]
    if own.requires_grad:
        parts[rank()] = own
    return torch.cat(parts)
