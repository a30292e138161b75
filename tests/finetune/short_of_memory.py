"""Several training processes, of which the second has little memory."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import torch

from assets_pkg.finetune.distributed import rank
from assets_pkg.finetune.launch import run_worker
from assets_pkg.finetune.loss import ContrastiveLoss

MEMORY = 60
"""Tokens of a mini-batch that fit together with what its gradient needs."""

_embed = ContrastiveLoss.embed_minibatch


def embed_in_little_memory(
    self: Any,
    sentence_feature: Any,
    begin: int,
    end: int,
    with_grad: bool,
    notes: Path,
    **kwargs: Any,
) -> Any:
    sequences = sentence_feature["attention_mask"][begin:end].sum(1)
    tokens = len(sequences) * int(sequences.max())
    if rank() == 1 and with_grad and tokens > MEMORY:
        raise torch.OutOfMemoryError
    if with_grad:
        with (notes / f"tokens{rank()}.txt").open("a") as stream:
            stream.write(f"{tokens}\n")
    return _embed(self, sentence_feature, begin, end, with_grad, **kwargs)


def run_short_of_memory(notes: Path, folder: Path) -> None:
    """One of the processes. Leaves the size of every mini-batch that went through, in tokens, in ``tokens<rank>.txt``
    below ``notes``."""
    ContrastiveLoss.embed_minibatch = partialmethod(embed_in_little_memory, notes=notes)  # type: ignore[assignment]
    run_worker(folder)
