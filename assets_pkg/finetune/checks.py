"""Can the settings be followed with this data on this machine? Known before anything is loaded."""

from __future__ import annotations

import importlib.util

from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.examples import TrainData, ValidationData
from assets_pkg.finetune.settings import FinetuneSettings
from storage.artifacts import MinedTrainSet


def check_request(
    mined: MinedTrainSet, settings: FinetuneSettings, data: TrainData, validation: ValidationData | None
) -> None:
    """Raises:
    TrainingDataError: a setting needs what the data or the machine lacks; says what to change.
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
            f"{mined.path / 'val.json'} holds no questions, but finetune.{needs[0]} chooses by them: "
            "set prep.val_ratio above 0"
        )
    if not settings.in_batch_negatives and data.median_negatives == 0:
        raise TrainingDataError(
            f"{mined.unrolled}: most questions have no mined negatives, and finetune.in_batch_negatives is "
            "false: set it to true, or mine again with a softer prep.hard_neg_margin"
        )
