"""nDCG@10 on the validation questions: before and after training, for early stopping, and to select the weight of a
merge with the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.base.evaluation import BaseEvaluator

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import MergeSelect
from assets_pkg.finetune.batches import pad, padding_id, tokenize
from assets_pkg.finetune.data import ValidationData
from assets_pkg.finetune.distributed import broadcast
from assets_pkg.finetune.model_io import load_model
from assets_pkg.finetune.run import TrainingRun
from assets_pkg.retrieval.exact_search import exact_search
from assets_pkg.retrieval.metrics import score_run
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

CUTOFF = 10
TOKENS_PER_BATCH = 4096
SHARES = (0.25, 0.5, 0.75)
"""Of the tuned weights, that are tried beside none and all."""

FEWEST_QUESTIONS = 20
"""With fewer, the standard error says nothing: the best share is taken."""


class Validator:
    """Evaluates models on one validation set, which is tokenised once.

    ``progress`` counts its passages for each model.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        data: ValidationData,
        settings: ModelSettings,
        bf16: bool,
        progress: Progress = no_progress,
    ):
        self.data = data
        self.bf16 = bf16
        self.progress = progress
        self._questions = tokenize(
            model, list(data.questions.values()), settings.query_prefix, settings.query_max_length
        )
        self._passages = tokenize(
            model, list(data.pool.values()), settings.passage_prefix, settings.passage_max_length
        )

    def ndcg(self, model: SentenceTransformer) -> float:
        """Mean nDCG@10 (linear gain, as in trec_eval) of the questions over the pool, between 0 and 1."""
        return float(self.scores(model).mean())

    def scores(self, model: SentenceTransformer) -> NDArray[np.float64]:
        """nDCG@10 of every question: float64 [n]."""
        questions = embed(model, self._questions, self.bf16)
        return scores_of(self.data, questions, embed(model, self._passages, self.bf16, self.progress))


def scores_of(
    data: ValidationData, questions: NDArray[np.float32], passages: NDArray[np.float32]
) -> NDArray[np.float64]:
    """nDCG@10 of every question, float64 [n]: of unit vectors of all questions and of the pool, float32 [n, d] and
    [m, d] in their order."""
    names = list(data.pool)
    found = exact_search(questions, passages, min(CUTOFF, len(names)))
    rows = zip(data.questions, found.ids.tolist(), found.scores.tolist(), strict=True)
    run = {
        question: {names[index]: score for index, score in zip(ids, scores, strict=True)}
        for question, ids, scores in rows
    }
    relevant = {question: dict.fromkeys(ids, 1) for question, ids in data.positives.items()}
    return score_run(run, relevant, [CUTOFF]).per_query[f"NDCG@{CUTOFF}"]


def embed(
    model: SentenceTransformer,
    sequences: Sequence[Sequence[int]],
    bf16: bool,
    progress: Progress = no_progress,
) -> NDArray[np.float32]:
    """Vectors of tokenised texts: float32 [n, d], in their order."""
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    vectors: list[torch.Tensor] = []
    done, was_training = 0, model.training
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        for group in _groups(order, sequences):
            features = pad([sequences[index] for index in group], padding_id(model))
            output = model({key: value.to(model.device) for key, value in features.items()})
            vectors.append(output["sentence_embedding"].float().cpu())
            done += len(group)
            progress(done, len(order), "validation passages")
    model.train(was_training)
    stacked = torch.cat(vectors).numpy()
    result = np.empty_like(stacked)
    result[order] = stacked
    return result


def _groups(order: list[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Consecutive runs of ``order`` (longest first) whose padded size stays within the token budget."""
    groups: list[list[int]] = []
    start = 0
    while start < len(order):
        size = max(1, TOKENS_PER_BATCH // len(sequences[order[start]]))
        groups.append(order[start : start + size])
        start += size
    return groups


class ValidationEvaluator(BaseEvaluator):
    """The metric of early stopping: ``ndcg`` on the validation questions."""

    def __init__(self, validator: Validator):
        super().__init__()
        self.validator = validator
        self.primary_metric = "ndcg"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        return {"ndcg": broadcast(self.validator.ndcg(model))}


def merge_with_base(
    run: TrainingRun,
    tuned: SentenceTransformer,
    validator: Validator,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
) -> dict[str, Any]:
    """Interpolate base and tuned weights with the share of the tuned ones that :func:`choose_share` takes by the
    validation questions. Changes ``tuned`` in place; returns values of ``summary.json``.

    Args:
        before: scores of the base (:meth:`Validator.scores`).
        after: scores of the tuned model.

    References:
        Wortsman et al. 2022, Model soups, https://arxiv.org/abs/2203.05482
    """
    base = load_model(run.base.model, "cpu", trust_remote_code=run.model.trust_remote_code).state_dict()
    own = {name: value.detach().clone() for name, value in tuned.state_dict().items()}

    def load(share: float) -> None:
        tuned.load_state_dict(
            {
                name: value.lerp(base[name].to(value), 1 - share) if value.is_floating_point() else value
                for name, value in own.items()
            }
        )

    scores = {0.0: before}
    for share in SHARES:
        load(share)
        scores[share] = validator.scores(tuned)
    scores[1.0] = after
    best = choose_share(scores, run.settings.merge_select)
    load(best)
    means = {share: float(each.mean()) for share, each in scores.items()}
    return {"merge_weight": best, "merge_scores": means, "validation_ndcg_after": means[best]}


def choose_share(scores: Mapping[float, NDArray[np.float64]], select: MergeSelect) -> float:
    """The share with the best mean, the smaller of equal ones. With ``one_standard_error`` the smallest above 0 that
    is within one standard error of the best by paired differences: a small eval set of questions made from the
    documents overrates a model that was trained on more of them.

    Args:
        scores: of every question, float64 [n], by share of the tuned weights.

    References:
        The rule: Breiman et al. 1984, Classification and Regression Trees, section 3.4.3.
    """
    best = min(scores, key=lambda share: (-scores[share].mean(), share))
    if select == "best" or best == 0 or len(scores[best]) < FEWEST_QUESTIONS:
        return best

    def is_near(share: float) -> bool:
        lost = scores[best] - scores[share]
        return float(lost.mean()) <= float(lost.std(ddof=1)) / len(lost) ** 0.5

    return min(share for share in scores if share == best or (share > 0 and is_near(share)))
