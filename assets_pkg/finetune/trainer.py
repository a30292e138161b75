"""The training loop: sentence-transformers' trainer, made to resume exactly and to stop on nonsense."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.evaluation import BaseEvaluator
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from assets_pkg.finetune.distributed import agreed, is_main, processes, sum_gradients, wait_for_all
from assets_pkg.finetune.errors import TrainingStopped
from assets_pkg.finetune.validation import Validator
from storage.progress import Progress

WEIGHTS = "weights.pt"
COMPLETE = "complete"


class ContrastiveTrainer(SentenceTransformerTrainer):
    """Draws the batches it is given, checkpoints plain weights, and ends a run whose loss is not a number.

    ``name_rows`` turns row numbers into something a user finds in the data, for error messages.
    """

    def __init__(
        self, *args: Any, batches: BatchSampler, name_rows: Callable[[list[int]], str], **kwargs: Any
    ):
        self.batches = batches
        self.name_rows = name_rows
        super().__init__(*args, **kwargs)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card is collected here: the checkpoint gets its own."""

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> BatchSampler:
        return self.batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches as they are: accelerate would deal whole ones out to the processes."""
        assert self.train_dataset is not None
        self._train_dataloader = self._build_dataloader(
            self.train_dataset, self.args.train_batch_size, dataset_kind="train"
        )
        return self._train_dataloader

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        rows = inputs.pop("rows").tolist()
        with self.accelerator.no_sync(model):
            loss = self._step_in_memory(model, inputs, num_items_in_batch)
        sum_gradients(model.parameters())
        if not math.isfinite(loss.item()):
            raise TrainingStopped(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}. The batch: "
                f"{self.name_rows(rows)}. A lower learning_rate or precision=fp32 may help"
            )
        return loss

    def _step_in_memory(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        """One forward and backward pass; when memory runs out, again in mini-batches half as large."""
        while True:
            try:
                return super().training_step(model, dict(inputs), num_items_in_batch)
            except torch.OutOfMemoryError:
                if processes() > 1:  # the others wait in the middle of this step
                    raise
                loss = _innermost(self.loss)
                if loss.uses_gradient_cache and loss.mini_batch_num_tokens < 2:
                    raise
                loss.uses_gradient_cache = True
                loss.mini_batch_num_tokens = max(1, loss.mini_batch_num_tokens // 2)
            model.zero_grad()
            torch.cuda.empty_cache()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        weights = torch.load(Path(checkpoint_path) / WEIGHTS, map_location="cpu", weights_only=True)
        self.model.load_state_dict(weights)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        wait_for_all()
        if is_main():
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            (folder / COMPLETE).touch()
        wait_for_all()


def _innermost(loss: Any) -> Any:
    """The contrastive loss inside the losses that wrap it."""
    return _innermost(loss.loss) if hasattr(loss, "loss") else loss


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``; ones that a kill cut short are removed."""
    whole: list[Path] = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


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
        norm = float(logs.get("grad_norm", 0.0))
        if not math.isfinite(norm):
            raise TrainingStopped(
                f"step {state.global_step}: the gradient is not finite. A lower learning_rate or "
                "precision=fp32 may help"
            )
        now = time.perf_counter()
        per_step = self.examples * self.epochs / state.max_steps
        line = {
            "step": state.global_step,
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": float(logs["learning_rate"]),
            "gradient_norm": round(norm, 6),
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


def read_log(path: Path) -> list[dict[str, float]]:
    """Lines of a ``training.jsonl``; a last line that a kill cut short is left out."""
    lines: list[dict[str, float]] = []
    if path.exists():
        for text in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


class ValidationEvaluator(BaseEvaluator):
    """What early stopping looks at: ``ndcg`` on the validation questions."""

    def __init__(self, validator: Validator):
        super().__init__()
        self.validator = validator
        self.primary_metric = "ndcg"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        return {"ndcg": agreed(self.validator.ndcg(model))}
