"""The contrastive loss (InfoNCE) over questions and the distinct passages of a batch, with a gradient cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from torch import Tensor, nn

from assets_pkg.finetune.distributed import gather_batch

TEACHER_TEMPERATURE = 0.1
"""Of a teacher's scores, which go from 0 to 1."""

_LOWEST = -1e4
"""The logit of a passage that is left out: its probability is 0, and its divergence finite."""


def info_nce(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor], temperature: float, in_batch: bool
) -> Tensor:
    """Cross entropy of identifying each question's positive among the passages it is contrasted with, averaged over the
    questions: ``mean_b -log( exp(s_bb+ / T) / sum_m exp(s_bm / T) )``.

    A passage that is known to answer the question, as a positive of this row or of another row with the same
    question, is never one of its negatives.

    Args:
        queries: float32 [B, d], unit length.
        passages: float32 [M, d], unit length; the distinct passages of the batch.
        label: ``target`` int64 [B], ``passages`` [M], ``known`` [B, P] and ``negatives`` [B, N], as
            :class:`~assets_pkg.finetune.batches.PairCollator` makes them.
        temperature: T; scores are cosines divided by it.
        in_batch: contrast with all passages of the batch. Otherwise with a question's own mined negatives
            only, as the Nemotron recipe does.

    Returns:
        The loss, float32 scalar.

    References:
        - InfoNCE: van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding,
          https://arxiv.org/abs/1807.03748
        - In-batch and mined negatives for retrieval: Karpukhin et al. 2020, Dense Passage Retrieval,
          https://arxiv.org/abs/2004.04906

    Example:
        Two questions, each with its positive, and one mined negative of the first::

            label = {
                "target": torch.tensor([0, 1]),
                "passages": torch.tensor([7, 8, 9]),
                "known": torch.tensor([[7], [8]]),
                "negatives": torch.tensor([[9], [-1]]),
            }
            info_nce(queries, passages, label, temperature=0.05, in_batch=True)
    """
    scores = queries @ passages.T / temperature
    own = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, label["target"][:, None], True)
    excluded = _among(label["passages"], label["known"])
    if not in_batch:
        excluded |= ~_among(label["passages"], label["negatives"])
    return nn.functional.cross_entropy(scores.masked_fill(excluded & ~own, -torch.inf), label["target"])


def total_loss(
    queries: Tensor,
    passages: Tensor,
    label: dict[str, Tensor],
    temperature: float,
    in_batch: bool,
    teacher_weight: float,
) -> Tensor:
    """:func:`info_nce` of the pairs plus ``teacher_weight`` of :func:`distillation_loss`, where the label has the
    scores of a teacher."""
    if "listed" not in label:
        return info_nce(queries, passages, label, temperature, in_batch)
    taught = distillation_loss(queries, passages, label, temperature)
    pairs = info_nce(*_pairs_of(queries, passages, label), temperature, in_batch)
    return pairs + teacher_weight * taught


def distillation_loss(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor], temperature: float
) -> Tensor:
    """Kullback-Leibler divergence of the model's distribution over the passages from the teacher's, averaged over the
    questions that have a teacher: ``mean_b sum_m t_bm (log t_bm - log s_bm)`` with ``s = softmax(q p / T)`` and
    ``t = softmax(score / 0.1)``.

    Passages that the teacher does not list have its lowest score, 0. A question's own source is left out.

    Args:
        queries: float32 [B, d], unit length.
        passages: float32 [M, d], unit length; the distinct passages of the batch.
        label: ``passages`` int64 [M], ``known`` [B, P], ``listed`` int64 [B, K] and ``scores`` float32 [B, K], as
            :class:`~assets_pkg.finetune.batches.PairCollator` makes them.
        temperature: T of the model's scores.

    Returns:
        The loss, float32 scalar; 0 where no question has a teacher.

    References:
        - Hinton et al. 2015, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531
    """
    taught = (label["listed"] >= 0).any(dim=1)
    if not taught.any():
        return queries.sum() * 0
    part = {name: label[name][taught] for name in ("known", "listed", "scores")}
    hidden = _among(label["passages"], part["known"])
    teacher = _teacher_scores(label["passages"], part["listed"], part["scores"])
    wanted = torch.log_softmax((teacher / TEACHER_TEMPERATURE).masked_fill(hidden, _LOWEST), dim=1)
    scores = queries[taught] @ passages.T / temperature
    own = torch.log_softmax(scores.masked_fill(hidden, _LOWEST), dim=1)
    return nn.functional.kl_div(own, wanted, reduction="batchmean", log_target=True)


def _teacher_scores(passages: Tensor, listed: Tensor, scores: Tensor) -> Tensor:
    """Float32 [B, M]: the teacher's score of passage m for question b, 0 where it lists none."""
    ordered, order = passages.sort()
    place = torch.searchsorted(ordered, listed.contiguous()).clamp_(max=len(passages) - 1)
    here = (ordered[place] == listed) & (listed >= 0)
    found = scores.new_zeros(len(listed), len(passages))
    return found.scatter_add_(1, order[place], torch.where(here, scores, 0.0))


def _pairs_of(
    queries: Tensor, passages: Tensor, label: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The part of a batch that :func:`info_nce` contrasts: questions with a positive, and the passages they bring."""
    rows = label["target"] >= 0
    target, negatives = label["target"][rows], label["negatives"][rows]
    brought = torch.isin(label["passages"], torch.cat([label["passages"][target], negatives.flatten()]))
    part = {
        "target": (brought.cumsum(0) - 1)[target],
        "passages": label["passages"][brought],
        "known": label["known"][rows],
        "negatives": negatives,
    }
    return queries[rows], passages[brought], part


def _among(passages: Tensor, listed: Tensor) -> Tensor:
    """Bool [B, M]: whether passage m is in row b of ``listed`` [B, N]."""
    return (listed[:, :, None] == passages[None, None, :]).any(dim=1)


class ContrastiveLoss(CachedLossMixin, nn.Module):
    """:func:`info_nce` for sentence-transformers' trainer, over a batch embedded in mini-batches.

    With ``cached``, the gradient is computed through cached embeddings: a first forward pass without a graph embeds
    the batch, the loss yields the gradient of every embedding, and a second forward pass of each mini-batch continues
    it into the weights. So the activations of only one mini-batch are in memory, the batch may be as large as its
    embeddings allow, and loss and gradient are those of the whole batch. Without ``cached`` mini-batches only save
    padding. With several processes the loss is that of the global batch (see ``distributed``).

    Args:
        model: the sentence-transformers model to train.
        temperature: of :func:`info_nce`.
        in_batch: of :func:`info_nce`.
        mini_batch_tokens: most tokens of a mini-batch, padding included.
        cached: whether to use the gradient cache.
        teacher_weight: of :func:`distillation_loss`, which is added where the batch has questions with a teacher.

    Inputs of :meth:`forward`: the features of B questions and of the batch's M distinct passages (``input_ids`` and
    ``attention_mask``, int64 [n, length]), and the label of :func:`info_nce`. The loss is a float32 scalar; if it is
    cached, its ``backward`` runs the second forward pass.

    References:
        - Gradient cache: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
          https://arxiv.org/abs/2101.06983

    Example::

        loss = ContrastiveLoss(model, temperature=0.05, in_batch=True, mini_batch_tokens=4096, cached=True)
        loss([query_features, passage_features], label).backward()
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float,
        in_batch: bool,
        mini_batch_tokens: int,
        cached: bool,
        teacher_weight: float = 1.0,
    ):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.in_batch = in_batch
        self.teacher_weight = teacher_weight
        self.mini_batch_num_tokens = mini_batch_tokens
        self.mini_batch_size = 0  # unused: the size of mini-batches is in tokens
        self.show_progress_bar = False
        self.uses_gradient_cache = cached

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> Tensor:
        queries, passages = (torch.cat(mini_batches) for mini_batches in reps)
        with torch.autocast(queries.device.type, enabled=False):
            batch = gather_batch(queries.float(), passages.float(), labels)
            loss = total_loss(*batch, self.temperature, self.in_batch, self.teacher_weight)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def reduce_memory(self) -> bool:
        """Halve the mini-batches from now on, with the same loss; returns False if they cannot be smaller."""
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
