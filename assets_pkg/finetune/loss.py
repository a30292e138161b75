"""The contrastive loss: each question's own passage against the batch's others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from torch import Tensor, nn

from assets_pkg.finetune.distributed import whole_batch


def info_nce(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor], temperature: float, in_batch: bool
) -> Tensor:
    """Mean cross entropy of finding each question's positive (InfoNCE, van den Oord et al. 2018).

    Args:
        queries: float32 [B, d], unit length.
        passages: float32 [M, d], unit length; the distinct passages of the batch.
        label: who is who (see ``batches.PairCollator``).
        temperature: scores are cosines divided by it.
        in_batch: contrast with all passages of the batch. Otherwise with a question's own mined negatives
            only, as the Nemotron recipe does.

    Every passage that is known to answer the same question, as this row's or another row's positive, is left
    out of its negatives.
    """
    scores = queries @ passages.T / temperature
    own = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, label["target"][:, None], True)
    out = _among(label["passages"], label["known"])
    if not in_batch:
        out |= ~_among(label["passages"], label["negatives"])
    return nn.functional.cross_entropy(scores.masked_fill(out & ~own, -torch.inf), label["target"])


def _among(passages: Tensor, listed: Tensor) -> Tensor:
    """Bool [B, M]: whether passage m is in row b of ``listed`` [B, N]."""
    return (listed[:, :, None] == passages[None, None, :]).any(dim=1)


class ContrastiveLoss(CachedLossMixin, nn.Module):
    """:func:`info_nce` over a batch embedded in mini-batches of at most ``mini_batch_tokens`` tokens.

    With ``cached``, gradients go through the embeddings as in GradCache (Gao et al. 2021, arXiv 2101.06983):
    the activations of only one mini-batch are in memory, for a second forward pass, and the loss and its
    gradient are the same. Without, mini-batches merely save padding.

    In several processes the loss is that of all processes' batches together (see ``distributed``).
    """

    def __init__(
        self, model: Any, *, temperature: float, in_batch: bool, mini_batch_tokens: int, cached: bool
    ):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.in_batch = in_batch
        self.mini_batch_num_tokens = mini_batch_tokens
        self.mini_batch_size = 0  # not used: mini-batches are measured in tokens
        self.show_progress_bar = False
        self.uses_gradient_cache = cached

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> Tensor:
        queries, passages = (torch.cat(mini_batches) for mini_batches in reps)
        with torch.autocast(queries.device.type, enabled=False):
            batch = whole_batch(queries.float(), passages.float(), labels)
            loss = info_nce(*batch, self.temperature, self.in_batch)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def halve(self) -> bool:
        """Keep half as much in memory from now on, with the same loss; False when that is no longer possible."""
        tokens = self.mini_batch_num_tokens or 0
        if self.uses_gradient_cache and tokens < 2:
            return False
        self.uses_gradient_cache = True
        self.mini_batch_num_tokens = max(1, tokens // 2)
        return True

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Any) -> Tensor:
        if self.uses_gradient_cache:
            return self.forward_cached(sentence_features, labels)
        reps = [
            [rep for rep, _ in self.embed_minibatch_iter(features, with_grad=True, copy_random_state=False)]
            for features in sentence_features
        ]
        return self.calculate_loss(reps, labels)
