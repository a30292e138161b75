"""``training.jsonl``: what every step did, for curves and for whoever watches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assets_pkg.finetune.curves import read_log
from storage.progress import Progress


class StepLog(TrainerCallback):
    """Writes ``training.jsonl``, one line per step, and tells the caller how far training is.

    A line holds ``step``, ``loss``, ``learning_rate``, ``gradient_norm`` and ``examples_per_second``. A resumed
    run drops the lines of steps that it does again.
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
        self.progress(
            state.global_step,
            state.max_steps,
            "step",
            loss=line["loss"],
            examples_per_second=line["examples_per_second"],
        )
