"""The tuned model averaged with its base: often better than both, and never worse on the validation questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assets_pkg.finetune.job import Job
from assets_pkg.finetune.loading import load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.validation import Validator

MERGE_WEIGHTS = (0.25, 0.5, 0.75)


def merge_with_base(
    job: Job, tuned: SentenceTransformer, validator: Validator, results: dict[str, Any]
) -> dict[str, Any]:
    """Average base and tuned weights with the share of the tuned ones that is best on the validation questions
    (model soups, Wortsman et al. 2022, arXiv 2203.05482); ties go to the share nearer to the base."""
    base = load_model(job.base.model, "cpu", trust_remote_code=job.model.trust_remote_code).state_dict()
    own = {name: value.detach().clone() for name, value in tuned.state_dict().items()}

    def load(share: float) -> None:
        tuned.load_state_dict(
            {
                name: value.lerp(base[name].to(value), 1 - share) if value.is_floating_point() else value
                for name, value in own.items()
            }
        )

    scores = {0.0: results["validation_ndcg_before"], 1.0: results["validation_ndcg_after"]}
    for share in MERGE_WEIGHTS:
        load(share)
        scores[share] = validator.ndcg(tuned)
    best = min(scores, key=lambda share: (-scores[share], share))
    load(best)
    return {
        "merge_weight": best,
        "merge_scores": dict(sorted(scores.items())),
        "validation_ndcg_after": scores[best],
    }
