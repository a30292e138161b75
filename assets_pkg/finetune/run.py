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
from resources.encoders.speed import cpu_training_rates
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.digests import digest_json
from storage.files import write_atomic
from storage.progress import Note, Progress

WORK = "work"
PRECISION = "precision.txt"


@dataclass(frozen=True)
class TrainingRun:
    """One call of :func:`~assets_pkg.finetune.train.finetune`, which writes into ``folder``. ``whole``: batches
    are computed without a gradient cache though ``local_batch_size`` is smaller."""

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
    whole: bool = False

    @property
    def target(self) -> Path:
        """The finished model."""
        return self.folder / "model" / "consolidated"

    @property
    def work(self) -> Path:
        """Checkpoints, while training is not finished."""
        return self.folder / WORK

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


def settle_precision(
    settings: FinetuneSettings, accelerator: Accelerator, folder: Path, note: Note
) -> FinetuneSettings:
    """``settings`` with the number format that ``precision: auto`` stands for, on all ranks. A training that was
    interrupted in ``folder`` keeps its own."""
    from assets_pkg.finetune.distributed import broadcast, is_main

    if settings.precision != "auto":
        return settings
    chosen = broadcast(_precision(settings, accelerator, folder, note) if is_main() else "")
    return settings.model_copy(update={"precision": chosen})


def _precision(settings: FinetuneSettings, accelerator: Accelerator, folder: Path, note: Note) -> str:
    if (begun := folder / WORK / PRECISION).exists():
        return begun.read_text("utf-8")
    chosen = "bf16" if use_bf16(settings, accelerator) else "fp32"
    if accelerator.device == "cpu" and accelerator.bf16:
        note(f"trains in {chosen}: this CPU multiplies at {cpu_training_rates()}, measured now")
    return chosen


def discard_other_run(run: TrainingRun) -> None:
    """Remove what a run with other inputs or settings left in the folder."""
    stamp = run.work / "job.txt"
    if not stamp.exists() or stamp.read_text("utf-8") != run.identity:
        shutil.rmtree(run.work, ignore_errors=True)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        shutil.rmtree(run.wandb, ignore_errors=True)
        run.log.unlink(missing_ok=True)
        write_atomic(run.work / PRECISION, run.settings.precision)
        write_atomic(stamp, run.identity)
