"""The training loop: sentence-transformers' trainer, made to resume exactly and to stop on nonsense."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from torch.utils.data import BatchSampler, DataLoader

from assets_pkg.finetune.distributed import (
    OutOfMemoryElsewhere,
    check_in,
    is_main,
    sum_gradients,
    wait_for_all,
)
from assets_pkg.finetune.errors import TrainingStopped

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
        self.rows: list[int] = []
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
        self.rows = inputs.pop("rows").tolist()
        with self.accelerator.no_sync(model):
            loss = self._step_in_memory(model, inputs, num_items_in_batch)
        sum_gradients(model.parameters())
        self._check_finite("loss", loss.item(), self.state.global_step + 1)
        return loss

    def _step_in_memory(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        """One forward and backward pass; when a process runs out of memory, again in mini-batches half as large, in
        all of them."""
        device = self.accelerator.device
        while True:
            try:
                loss = super().training_step(model, dict(inputs), num_items_in_batch)
                check_in(device)
                return loss
            except torch.OutOfMemoryError as error:
                if not isinstance(error, OutOfMemoryElsewhere):
                    check_in(device, ran_out=True)
                if not _innermost(self.loss).halve():
                    raise
            model.zero_grad()
            torch.cuda.empty_cache()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs:
            self._check_finite("gradient", float(logs["grad_norm"]), self.state.global_step)
        super().log(logs, start_time)

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise TrainingStopped(
                f"step {step}: the {what} is {value}. The batch: {self.name_rows(self.rows)}. A lower "
                "learning_rate or precision=fp32 may help"
            )

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
