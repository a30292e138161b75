"""What torchrun runs in a test: one of several training processes, of which the second has little memory.

Leaves the size of every mini-batch that went through, in tokens, in ``tokens<rank>.txt`` below
``RETUNE_TEST_FOLDER``.
"""

import os
import sys
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
    self: Any, sentence_feature: Any, begin: int, end: int, with_grad: bool, **kwargs: Any
) -> Any:
    sequences = sentence_feature["attention_mask"][begin:end].sum(1)
    tokens = len(sequences) * int(sequences.max())
    if rank() == 1 and with_grad and tokens > MEMORY:
        raise torch.OutOfMemoryError
    if with_grad:
        with (Path(os.environ["RETUNE_TEST_FOLDER"]) / f"tokens{rank()}.txt").open("a") as stream:
            stream.write(f"{tokens}\n")
    return _embed(self, sentence_feature, begin, end, with_grad, **kwargs)


if __name__ == "__main__":
    ContrastiveLoss.embed_minibatch = embed_in_little_memory
    run_worker(Path(sys.argv[1]))
