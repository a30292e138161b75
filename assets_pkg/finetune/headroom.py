"""Is there anything to gain? Asked before the first step, of the base as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets_pkg.finetune.job import Job

if TYPE_CHECKING:
    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss


def no_headroom(job: Job, ndcg: float | None, loss: ContrastiveLoss, collator: PairCollator) -> str | None:
    """Why training would not help, or None."""
    limit = job.settings.headroom_ndcg
    if ndcg is not None:
        if ndcg <= limit:
            return None
        return (
            f"the base already has nDCG@10 {ndcg:.3f} on the validation questions (headroom_ndcg {limit:g})"
        )
    first = _first_loss(job, loss, collator)
    limit = job.settings.headroom_loss
    if first >= limit:
        return None
    return f"the loss of the first batch is already {first:.4f} (headroom_loss {limit:g})"


def _first_loss(job: Job, loss: ContrastiveLoss, collator: PairCollator) -> float:
    import torch

    from assets_pkg.finetune.batches import PlannedBatches

    rows = next(iter(PlannedBatches(job.plan, job.settings.seed)))
    batch = collator([{"row": row} for row in rows])
    device = torch.device(job.accelerator.device)
    features = [
        {key: batch[f"{kind}_{key}"].to(device) for key in ("input_ids", "attention_mask")}
        for kind in ("query", "passage")
    ]
    label = {key: value.to(device) for key, value in batch["label"].items()}
    loss.model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=job.bf16):
        return float(loss(features, label))
