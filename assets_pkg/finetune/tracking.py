"""Where the curves go beside ``training.jsonl``: TensorBoard where it is installed, W&B where it is asked for."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.profile import FinetuneSettings

TENSORBOARD = "tensorboard"
"""The folder of the event files, inside the checkpoint's."""


def check_trackers(settings: FinetuneSettings) -> None:
    """Raises:
    TrainingDataError: W&B is asked for and not installed.
    """
    if settings.wandb_project is not None and importlib.util.find_spec("wandb") is None:
        raise TrainingDataError(
            f"finetune.wandb_project = {settings.wandb_project!r}: wandb is not installed: pip install wandb, "
            "or set it to null"
        )


def trackers(folder: Path, settings: FinetuneSettings) -> list[Any]:
    """Trainer callbacks that write the curves as training goes."""
    from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

    found: list[Any] = []
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        found.append(TensorBoardCallback(SummaryWriter(str(folder / TENSORBOARD))))
    if settings.wandb_project is not None:
        os.environ["WANDB_PROJECT"] = settings.wandb_project  # the callback reads it from there only
        found.append(WandbCallback())
    return found
