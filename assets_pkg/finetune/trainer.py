"""The training loop: sentence-transformers' trainer, made to resume exactly and to stop when the loss is not finite."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from torch.utils.data import BatchSampler, DataLoader

from assets_pkg.finetune.data import TrainData
from assets_pkg.finetune.distributed import (
    OutOfMemoryInPeer,
    check_in,
    is_main,
    sum_gradients,
    wait_for_all,
)
from assets_pkg.finetune.errors import TrainingDataError, TrainingStopped
from assets_pkg.finetune.preflight import mini_batches
from assets_pkg.finetune.run import TrainingRun

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss
    from assets_pkg.finetune.validation import Validator

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
                if not isinstance(error, OutOfMemoryInPeer):
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


EVALUATIONS_PER_RUN = 10


def build_loss(run: TrainingRun, model: SentenceTransformer) -> ContrastiveLoss:
    from assets_pkg.finetune.distributed import processes
    from assets_pkg.finetune.loss import ContrastiveLoss

    settings = run.settings
    share = math.ceil(run.plan.batch_size / processes())
    parts = mini_batches(settings, run.model, share, run.accelerator.device)
    return ContrastiveLoss(
        model,
        temperature=settings.temperature,
        in_batch=settings.in_batch_negatives,
        mini_batch_tokens=parts.tokens,
        cached=parts.cached,
    )


def build_trainer(
    run: TrainingRun,
    model: SentenceTransformer,
    loss: ContrastiveLoss,
    collator: PairCollator,
    validator: Validator | None,
    trackers: Sequence[Any],
) -> ContrastiveTrainer:
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from assets_pkg.finetune.batches import PlannedBatches
    from assets_pkg.finetune.distributed import is_main, processes, rank
    from assets_pkg.finetune.training_log import StepLog
    from assets_pkg.finetune.validation import ValidationEvaluator

    callbacks = [*trackers]
    if is_main():
        callbacks.append(StepLog(run.log, run.plan.examples, run.plan.epochs, run.progress))
    evaluator = None
    patience = run.settings.early_stop_patience
    if patience is not None and validator is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
        evaluator = ValidationEvaluator(validator)
    whole: Any = loss
    if dims := _matryoshka_dims(run, model):
        whole = MatryoshkaLoss(model, loss, dims, [1 / len(dims)] * len(dims))
    trainer = ContrastiveTrainer(
        model=model,
        args=_arguments(run, stops_early=evaluator is not None),
        train_dataset=Dataset.from_dict({"row": list(range(run.plan.examples))}),
        loss=whole,
        data_collator=collator,
        evaluator=evaluator,
        callbacks=callbacks,
        batches=PlannedBatches(run.plan, run.settings.seed, rank(), processes()),
        name_rows=lambda rows: _name_rows(run.data, rows),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _matryoshka_dims(run: TrainingRun, model: SentenceTransformer) -> list[int]:
    wanted = run.settings.matryoshka_dims
    full = int(model.get_embedding_dimension() or 0)
    if wanted and max(wanted) > full:
        raise TrainingDataError(
            f"finetune.matryoshka_dims = {wanted}: the model's vectors have {full} dimensions"
        )
    return sorted({*wanted, full}, reverse=True) if wanted else []


def _arguments(run: TrainingRun, stops_early: bool) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    from assets_pkg.finetune.distributed import processes

    settings, plan = run.settings, run.plan
    cpu = run.accelerator.device == "cpu"
    stop: dict[str, Any] = {}
    save_every = plan.checkpoint_every
    if stops_early:
        save_every = max(1, plan.steps // EVALUATIONS_PER_RUN)
        stop = {
            "eval_strategy": "steps",
            "eval_steps": save_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_ndcg",
            "greater_is_better": True,
            "restore_callback_states_from_checkpoint": True,
        }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(run.work),
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and processes() > 1 else None,
        ddp_broadcast_buffers=False,  # processes meet where they all know of it, and nowhere else
        num_train_epochs=1,  # the batches of all epochs are drawn as one
        per_device_train_batch_size=plan.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(
            settings.lr_scheduler, settings.lr_scheduler
        ),
        warmup_steps=plan.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch" if run.accelerator.device == "mps" else "adamw_torch_fused",
        bf16=run.bf16,
        activation_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not cpu,
        **stop,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process trains on one device
    return arguments


def _name_rows(data: TrainData, rows: list[int], most: int = 5) -> str:
    names = [data.examples[row].question_id for row in sorted(rows)[:most]]
    more = len(rows) - len(names)
    return f"questions {', '.join(names)}" + (f" and {more} more" if more > 0 else "")
