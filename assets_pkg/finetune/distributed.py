"""Data-parallel training: each rank embeds its share of every batch, and the loss is that of the global batch.

Every rank computes the full loss, in which only its own embeddings carry a gradient, so that the sum of all ranks'
gradients is the gradient of one process with the global batch. (DistributedDataParallel averages, which needs equal
shares, and a gradient cache makes more than one backward pass between two all-reduces.)

One rank may run out of memory while others do not. So before the tensors of a step are exchanged, an all-reduce reports
every rank whether memory sufficed (``check_peers``), and no rank waits for one that has given up. What an exchange
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

from assets_pkg.finetune.batches import NO_PASSAGE

T = TypeVar("T")


class OutOfMemoryInPeer(torch.OutOfMemoryError):
    """Another rank ran out of memory in this step."""


def init_process_group(device: str) -> str:
    """Join the process group that ``torchrun`` or ``accelerate launch`` started; returns this rank's device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda"):
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def world_size() -> int:
    """The number of processes; 1 where no group was joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the group; 0 where no group was joined."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before the others do."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast(value: T) -> T:
    """The main process's value, for decisions that must be the same on all ranks."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def check_peers(device: torch.device, out_of_memory: bool = False) -> None:
    """All-reduce whether a rank ran ``out_of_memory`` since the last call.

    Raises:
        OutOfMemoryInPeer: another rank did, and this one did not.
    """
    if world_size() == 1:
        return
    failed = torch.tensor([float(out_of_memory)], device=device)
    dist.all_reduce(failed)
    if failed.item() > 0 and not out_of_memory:
        raise OutOfMemoryInPeer("another training process ran out of memory")


def gather_batch(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The global batch, all-gathered from this rank's share: arguments of ``info_nce``.

    Passages that several ranks hold appear once, as they would in one process. Only this rank's own rows carry a
    gradient.

    Raises:
        OutOfMemoryInPeer: another rank has no share of this step.
    """
    if world_size() == 1:
        return queries, passages, label
    target = label["target"]
    positives = torch.where(target >= 0, label["passages"][target.clamp(min=0)], NO_PASSAGE)
    teacher = ("listed", "scores") if "listed" in label else ()
    lists = {name: label[name] for name in ("known", "negatives", *teacher)}
    numbers, positives, *gathered, all_queries, all_passages = _gather(
        [label["passages"][:, None], positives[:, None], *lists.values(), queries, passages]
    )
    numbers, positives = numbers[:, 0], positives[:, 0]
    distinct, index = torch.unique(numbers, return_inverse=True)
    rows = torch.arange(len(numbers), device=numbers.device)
    first = torch.full_like(distinct, len(numbers)).scatter_reduce_(0, index, rows, "amin")
    global_label = {
        "passages": distinct,
        "target": torch.where(positives >= 0, torch.searchsorted(distinct, positives), NO_PASSAGE),
        **dict(zip(lists, gathered, strict=True)),
    }
    return all_queries, all_passages[first], global_label


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """All-reduce every parameter's gradient to the sum over all ranks, in place."""
    if world_size() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def _gather(own: Sequence[Tensor]) -> list[Tensor]:
    """All-gather tensors [n, d], each rank with its own n: the rows of all ranks, in their order; narrower integer rows
    are padded with -1. The gradient flows to this rank's rows."""
    check_peers(own[0].device)
    shapes = _all_gather_equal(torch.tensor([each.shape for each in own], device=own[0].device))
    largest = shapes.amax(0).tolist()
    padded = [_pad(each, height, width) for each, (height, width) in zip(own, largest, strict=True)]
    buffers = [each.new_empty((world_size(), *each.shape)) for each in padded]
    check_peers(own[0].device)
    for each, buffer in zip(padded, buffers, strict=True):
        dist.all_gather_into_tensor(buffer.flatten(0, 1), each)
    heights = shapes[:, :, 0].T.tolist()
    return [_rows(*each) for each in zip(own, buffers, heights, strict=True)]


def _all_gather_equal(own: Tensor) -> Tensor:
    """All-gather a small tensor that has the same shape on every rank: [world size, ...]."""
    buffer = own.new_empty((world_size(), *own.shape))
    dist.all_gather_into_tensor(buffer.flatten(0, 1), own)
    return buffer


def _pad(own: Tensor, height: int, width: int) -> Tensor:
    padded = own.new_full((height, width), NO_PASSAGE)
    padded[: own.shape[0], : own.shape[1]] = own.detach()
    return padded


def _rows(own: Tensor, gathered: Tensor, heights: Sequence[int]) -> Tensor:
    parts = [part[:height] for part, height in zip(gathered, heights, strict=True)]
    if own.requires_grad:
        parts[rank()] = own
    return torch.cat(parts)
