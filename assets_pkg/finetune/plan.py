"""The schedule of a training run, fitted to the amount of data, and checks of settings against the data."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.data import TrainData, ValidationData
from assets_pkg.finetune.errors import TrainingDataError
from storage.artifacts import MinedTrainSet
from storage.progress import Note

RECIPE_BATCH = 128
SMALL_DATA = 2000
FEW_STEPS = 50
CHECKPOINTS_PER_RUN = 3


@dataclass(frozen=True)
class TrainingPlan:
    """The schedule of one run. ``steps`` are optimizer steps over all epochs; a *batch* is ``batch_size``
    questions, all contrasted with each other; ``warnings`` are messages for the user."""

    examples: int
    epochs: int
    batch_size: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    checkpoint_every: int
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"warnings": list(self.warnings)}

    def __str__(self) -> str:
        return (
            f"{self.examples} examples, {self.epochs} epoch(s) of {self.steps_per_epoch} steps in batches of "
            f"{self.batch_size}: {self.steps} steps, {self.warmup_steps} of them warm-up, "
            f"a checkpoint every {self.checkpoint_every}"
        )


def plan_training(
    examples: int, settings: FinetuneSettings, median_negatives: float | None = None
) -> TrainingPlan:
    """Fit the schedule to the amount of data.

    The recipe's default batch of 128 shrinks to ``max(16, min(64, examples // 8))`` when there are fewer than
    2,000 examples; any other batch size is kept. A run with fewer than three checkpoints gets one at every third
    of its steps.

    Args:
        examples: number of (question, positive) rows; at least 1.
        settings: the ``finetune`` section.
        median_negatives: median number of mined negatives of a row, for a warning if there are too few.
    """
    batch_size = min(_batch_size(examples, settings), examples)
    steps_per_epoch = math.ceil(examples / batch_size)
    steps = steps_per_epoch * settings.num_epochs
    every = settings.checkpoint_every_steps
    if steps < CHECKPOINTS_PER_RUN * every:
        every = max(1, steps // CHECKPOINTS_PER_RUN)
    return TrainingPlan(
        examples=examples,
        epochs=settings.num_epochs,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        warmup_steps=round(settings.warmup_ratio * steps),
        checkpoint_every=every,
        warnings=tuple(_warnings(examples, batch_size, steps, settings, median_negatives)),
    )


def describe_plan(plan: TrainingPlan, note: Note) -> None:
    """Report the plan, and each of its warnings."""
    note(f"plan: {plan}")
    for warning in plan.warnings:
        note(warning)


def scheduler_name(settings: FinetuneSettings) -> str:
    """transformers' name of the learning-rate schedule; all of them begin with the warm-up."""
    return "constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler


def _batch_size(examples: int, settings: FinetuneSettings) -> int:
    if settings.global_batch_size == RECIPE_BATCH and examples < SMALL_DATA:
        return max(16, min(64, examples // 8))
    return settings.global_batch_size


def _warnings(
    examples: int, batch_size: int, steps: int, settings: FinetuneSettings, median_negatives: float | None
) -> list[str]:
    found: list[str] = []
    if batch_size != settings.global_batch_size:
        found.append(
            f"global_batch_size {settings.global_batch_size} is large for {examples} examples: "
            f"{batch_size} is used"
        )
    if steps < FEW_STEPS:
        found.append(
            f"only {steps} optimizer steps: more documents, a smaller global_batch_size or more num_epochs "
            "would let the model learn more"
        )
    wanted = settings.train_n_passages - 1
    if median_negatives is not None and median_negatives < wanted:
        found.append(
            f"half of the questions have {median_negatives:g} mined negatives or fewer, train_n_passages asks "
            f"for {wanted}: a larger corpus or a softer hard_neg_margin gives more"
        )
    return found


def check_settings(
    mined: MinedTrainSet, settings: FinetuneSettings, data: TrainData, validation: ValidationData | None
) -> None:
    """Check that data and machine have what the settings need.

    Raises:
        TrainingDataError: they have not; the message says what to change.
    """
    if settings.wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise TrainingDataError(
            f"finetune.wandb_project = {settings.wandb_project!r}: wandb is not installed: pip install wandb, "
            "or set it to null"
        )
    needs = [
        name
        for name, wanted in (
            ("merge_with_base", settings.merge_with_base),
            ("early_stop_patience", settings.early_stop_patience is not None),
        )
        if wanted
    ]
    if needs and validation is None:
        raise TrainingDataError(
            f"{mined.path / 'val.json'} holds no questions, but finetune.{needs[0]} selects a model by them: "
            "set prep.val_ratio above 0"
        )
    if not settings.in_batch_negatives and data.median_negatives == 0:
        raise TrainingDataError(
            f"{mined.unrolled}: most questions have no mined negatives, and finetune.in_batch_negatives is "
            "false: set it to true, or mine again with a softer prep.hard_neg_margin"
        )
