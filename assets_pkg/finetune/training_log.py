"""Metrics of every step: in ``training.jsonl``, TensorBoard and Weights & Biases (W&B)."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assets_pkg.finetune.curves import read_log
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.run import TrainingRun
from storage.progress import Progress


class StepLog(TrainerCallback):
    """Writes ``training.jsonl``, one line per step, and reports progress.

    A line holds ``step``, ``loss``, ``learning_rate``, ``gradient_norm`` and ``examples_per_second``. A resumed
    run removes the lines of steps that it repeats.
    """

    def __init__(self, path: Path, examples: int, epochs: int, progress: Progress):
        self.path = path
        self.examples = examples
        self.epochs = epochs
        self.progress = progress
        self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept = [line for line in read_log(self.path) if line["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self.started = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        now = time.perf_counter()
        per_step = self.examples * self.epochs / state.max_steps
        line = {
            "step": state.global_step,
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": float(logs["learning_rate"]),
            "gradient_norm": round(float(logs.get("grad_norm", 0.0)), 6),
            "examples_per_second": round(per_step / (now - self.started), 2),
        }
        self.started = now
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self.progress(state.global_step, state.max_steps, "steps", loss=line["loss"])


@contextmanager
def trackers(run: TrainingRun) -> Iterator[list[Any]]:
    """Trainer callbacks of TensorBoard, where it is installed, and of W&B, if a project is set; the W&B run ends with
    the block.

    Raises:
        TrainingDataError: the W&B run cannot be started.
    """
    from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

    callbacks: list[Any] = []
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        callbacks.append(TensorBoardCallback(SummaryWriter(str(run.tensorboard))))
    if run.settings.wandb_project is None:
        yield callbacks
        return
    with _wandb_run(run):
        yield [*callbacks, WandbCallback()]


@contextmanager
def _wandb_run(run: TrainingRun) -> Iterator[None]:
    """The W&B run, whose id is the identity of the training, so that a resumed training continues it."""
    import wandb

    run.wandb.mkdir(parents=True, exist_ok=True)
    try:
        wandb_run = wandb.init(
            project=run.settings.wandb_project,
            dir=str(run.wandb),
            id=run.identity,
            resume="allow",
            config={
                "finetune": run.settings.decisive(),
                "model": run.model.decisive(),
                "plan": run.plan.as_dict(),
                "base_digest": run.base.version,
                "training_set_digest": run.mined.version,
            },
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
        )
    except wandb.Error as error:
        raise TrainingDataError(
            f"finetune.wandb_project = {run.settings.wandb_project!r}: {error}. Set WANDB_API_KEY, or "
            "WANDB_MODE=offline, or set finetune.wandb_project to null"
        ) from error
    run.note(f"W&B run: {wandb_run.url or wandb_run.dir}")
    try:
        yield
    finally:
        wandb_run.finish(exit_code=1 if sys.exc_info()[0] else 0)
