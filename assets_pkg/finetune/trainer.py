"""The training loop: sentence-transformers' trainer, assembled for a :class:`TrainingRun`, resuming bit-exactly and
stopping when loss or gradient is not finite."""

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
    barrier,
    check_peers,
    is_main,
    rank,
    sum_gradients,
    world_size,
)
from assets_pkg.finetune.errors import TrainingDataError, TrainingStopped
from assets_pkg.finetune.plan import scheduler_name
from assets_pkg.finetune.preflight import mini_batches
from assets_pkg.finetune.run import TrainingRun

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss
    from assets_pkg.finetune.validation import Validator

WEIGHTS = "weights.pt"
COMPLETE = "complete"
"""Marks a checkpoint that is fully written."""

EVALUATIONS_PER_RUN = 10
"""Of the validation questions, with early stopping."""


class ContrastiveTrainer(SentenceTransformerTrainer):
    """Trains on the batches of ``batches``, checkpoints plain weights, and stops when loss or gradient is not finite.

    ``name_rows`` describes row numbers in error messages by what the user finds in the data.
    """

    def __init__(
        self, *args: Any, batches: BatchSampler, name_rows: Callable[[list[int]], str], **kwargs: Any
    ):
        self.batches = batches
        self.name_rows = name_rows
        self.rows: list[int] = []
        super().__init__(*args, **kwargs)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """No model card from the trainer: the checkpoint has its own (``model_card``)."""

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> BatchSampler:
        return self.batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches unchanged: accelerate would distribute whole batches over the ranks."""
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
            loss = self._step_within_memory(model, inputs, num_items_in_batch)
        sum_gradients(model.parameters())
        self._check_finite("loss", loss.item(), self.state.global_step + 1)
        return loss

    def _step_within_memory(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> torch.Tensor:
        """One forward and backward pass; if a rank runs out of memory, all ranks repeat it with mini-batches half as
        large."""
        device = self.accelerator.device
        while True:
            try:
                loss = super().training_step(model, dict(inputs), num_items_in_batch)
                check_peers(device)
                return loss
            except torch.OutOfMemoryError as error:
                if not isinstance(error, OutOfMemoryInPeer):
                    check_peers(device, out_of_memory=True)
                if not _innermost(self.loss).reduce_memory():
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
        barrier()
        if is_main():
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            (folder / COMPLETE).touch()
        barrier()


def _innermost(loss: Any) -> Any:
    """The contrastive loss inside the losses that wrap it."""
    return _innermost(loss.loss) if hasattr(loss, "loss") else loss


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``; incomplete ones are removed."""
    complete: list[Path] = []
    for path in folder.glob("checkpoint-*"):
        if (path / COMPLETE).exists():
            complete.append(path)
        else:
            shutil.rmtree(path)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def build_loss(run: TrainingRun, model: SentenceTransformer) -> ContrastiveLoss:
    """The loss with the run's settings, in mini-batches that suit the device."""
    from assets_pkg.finetune.loss import ContrastiveLoss

    settings = run.settings
    questions = run.plan.batch_size * (2 if run.taught else 1)
    share = math.ceil(questions / world_size())
    parts = mini_batches(settings, run.model, share, run.accelerator.device, whole=run.whole)
    return ContrastiveLoss(
        model,
        temperature=settings.temperature,
        in_batch=settings.in_batch_negatives,
        mini_batch_tokens=parts.tokens,
        cached=parts.cached,
        teacher_weight=settings.teacher_weight,
    )


def build_trainer(
    run: TrainingRun,
    model: SentenceTransformer,
    loss: ContrastiveLoss,
    collator: PairCollator,
    validator: Validator | None,
    trackers: Sequence[Any],
) -> ContrastiveTrainer:
    """The trainer of a run; with ``early_stop_patience`` it evaluates on the validation questions and ends with the
    best weights.

    Args:
        trackers: trainer callbacks (see ``training_log.trackers``).
    """
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from assets_pkg.finetune.batches import PlannedBatches
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
    total: Any = loss
    if dims := _matryoshka_dims(run, model):
        total = MatryoshkaLoss(model, loss, dims, [1 / len(dims)] * len(dims))
    trainer = ContrastiveTrainer(
        model=model,
        args=_arguments(run, stops_early=evaluator is not None),
        train_dataset=Dataset.from_dict({"row": list(range(len(collator.rows)))}),
        loss=total,
        data_collator=collator,
        evaluator=evaluator,
        callbacks=callbacks,
        batches=PlannedBatches(run.plan, run.settings.seed, rank(), world_size(), run.groups),
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
        ddp_backend="gloo" if cpu and world_size() > 1 else None,
        ddp_broadcast_buffers=False,  # ranks communicate in distributed.py only
        num_train_epochs=1,  # the batch sampler yields all epochs
        per_device_train_batch_size=plan.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=scheduler_name(settings),
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
    arguments._n_gpu = min(1, arguments.n_gpu)  # each process trains on one device
    return arguments


def _name_rows(data: TrainData, rows: list[int], most: int = 5) -> str:
    pairs = sorted(row for row in rows if row < len(data.examples))
    names = [data.examples[row].question_id for row in pairs[:most]]
    more = len(rows) - len(names)
    return f"questions {', '.join(names)}" + (f" and {more} more" if more > 0 else "")
