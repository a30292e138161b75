"""The loss against sentence-transformers' own, against hand-made cross entropy, and against itself cached."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.nn.functional import cross_entropy, normalize

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.batches import collator_for
from assets_pkg.finetune.data import read_train_data
from assets_pkg.finetune.loss import ContrastiveLoss, info_nce
from assets_pkg.finetune.model_io import load_model
from storage.artifacts import Checkpoint, MinedTrainSet

B, D, T = 6, 16, 0.05


def vectors(n: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def label(
    negatives: list[list[int]] | None = None, known: list[list[int]] | None = None
) -> dict[str, torch.Tensor]:
    """Question b's positive is passage b; passages B, B+1, ... are negatives."""
    return {
        "target": torch.arange(B),
        "passages": torch.arange(2 * B),
        "known": torch.tensor(known or [[b] for b in range(B)]),
        "negatives": torch.tensor(negatives or [[B + b] for b in range(B)]),
    }


def test_in_batch_equals_multiple_negatives_ranking_loss() -> None:
    queries, passages = vectors(B, 1), vectors(2 * B, 2)
    oracle = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=1 / T)  # pyright: ignore
    expected = oracle.compute_loss_from_embeddings([queries, passages[:B], passages[B:]], torch.empty(0))
    assert info_nce(queries, passages, label(), T, in_batch=True).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_mined_only_is_cross_entropy_over_own_passages() -> None:
    queries, passages = vectors(B, 1), vectors(2 * B, 2)
    negatives = [[B + b, B + (b + 1) % B] for b in range(B)]
    rows = [[queries[b] @ passages[n] / T for n in (b, *negatives[b])] for b in range(B)]
    expected = cross_entropy(torch.tensor(rows), torch.zeros(B, dtype=torch.long))
    got = info_nce(queries, passages, label(negatives), T, in_batch=False)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_other_positives_of_a_question_are_not_its_negatives() -> None:
    queries, passages = vectors(B, 1), vectors(2 * B, 2)
    siblings = [[0, 1], [0, 1], *[[b, -1] for b in range(2, B)]]
    passages.requires_grad_()
    scores = info_nce(
        queries[:1],
        passages,
        {k: v[:1] if k != "passages" else v for k, v in label(None, siblings).items()},
        T,
        True,
    )
    scores.backward()
    gradient = passages.grad
    assert gradient is not None
    assert gradient[1].abs().max() == 0
    assert gradient[2].abs().max() > 0


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_mini_batches_and_caching_change_neither_loss_nor_gradient(
    base: Checkpoint, mined: MinedTrainSet, model_settings: ModelSettings, in_batch: bool, cached: bool
) -> None:
    model = load_model(base.model, "cpu").eval()
    collator = collator_for(model, read_train_data(mined.unrolled, 2), model_settings)
    batch = collator([{"row": row} for row in range(10)])

    def run(tokens: int, cached: bool) -> tuple[float, list[torch.Tensor]]:
        own: Any = copy.deepcopy(model)
        loss = ContrastiveLoss(own, temperature=T, in_batch=in_batch, mini_batch_tokens=tokens, cached=cached)
        features = [
            {key: batch[f"{kind}_{key}"] for key in ("input_ids", "attention_mask")}
            for kind in ("query", "passage")
        ]
        value = loss(features, batch["label"])
        value.backward()
        return value.item(), [p.grad for p in own.parameters() if p.grad is not None]

    whole, expected = run(10**6, cached=False)
    value, gradients = run(40, cached)
    assert value == pytest.approx(whole, rel=1e-5)
    assert len(gradients) == len(expected)
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
