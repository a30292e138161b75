"""One training run: its inputs, settings, plan and files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.data import TrainData
from assets_pkg.finetune.distillation import Distillation, topical_groups
from assets_pkg.finetune.model_io import use_bf16
from assets_pkg.finetune.plan import TrainingPlan
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.digests import digest_json
from storage.files import write_atomic
from storage.progress import Note, Progress


@dataclass(frozen=True)
class TrainingRun:
    """One call of :func:`~assets_pkg.finetune.train.finetune`, which writes into ``folder``."""

    mined: MinedTrainSet
    base: Checkpoint
    model: ModelSettings
    settings: FinetuneSettings
    accelerator: Accelerator
    folder: Path
    progress: Progress
    note: Note
    data: TrainData
    plan: TrainingPlan
    taught: Distillation | None = None

    @property
    def target(self) -> Path:
        """The finished model."""
        return self.folder / "model" / "consolidated"

    @property
    def work(self) -> Path:
        """Checkpoints, while training is not finished."""
        return self.folder / "work"

    @property
    def log(self) -> Path:
        return self.folder / "training.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"

    @property
    def bf16(self) -> bool:
        return use_bf16(self.settings, self.accelerator)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Questions of the distillation set, as many in a group as a batch has pairs, about the same topic."""
        if self.taught is None:
            return []
        return topical_groups(self.taught.candidates, self.plan.batch_size, self.settings.seed)

    @property
    def identity(self) -> str:
        """Digest of everything that determines the result and the steps to it."""
        parts = [self.mined.version, self.base.version, self.model.digest(), self.settings.digest()]
        return digest_json([*parts, self.plan.as_dict()])


def discard_other_run(run: TrainingRun) -> None:
    """Remove what a run with other inputs or settings left in the folder."""
    stamp = run.work / "job.txt"
    if not stamp.exists() or stamp.read_text("utf-8") != run.identity:
        shutil.rmtree(run.work, ignore_errors=True)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        shutil.rmtree(run.wandb, ignore_errors=True)
        run.log.unlink(missing_ok=True)
        write_atomic(stamp, run.identity)
