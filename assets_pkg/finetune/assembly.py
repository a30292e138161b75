"""From settings to sentence-transformers' parts: the loss, the trainer and its arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.examples import TrainData
from assets_pkg.finetune.job import Job
from assets_pkg.finetune.memory import mini_batches

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss
    from assets_pkg.finetune.trainer import ContrastiveTrainer
    from assets_pkg.finetune.validation import Validator

EVALUATIONS_PER_RUN = 10


def build_loss(job: Job, model: SentenceTransformer) -> ContrastiveLoss:
    from assets_pkg.finetune.distributed import processes
    from assets_pkg.finetune.loss import ContrastiveLoss

    settings = job.settings
    share = math.ceil(job.plan.batch_size / processes())
    parts = mini_batches(settings, job.model, share, job.accelerator.device)
    return ContrastiveLoss(
        model,
        temperature=settings.temperature,
        in_batch=settings.in_batch_negatives,
        mini_batch_tokens=parts.tokens,
        cached=parts.cached,
    )


def build_trainer(
    job: Job,
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
    from assets_pkg.finetune.trainer import ContrastiveTrainer
    from assets_pkg.finetune.training_log import StepLog
    from assets_pkg.finetune.validation import ValidationEvaluator

    callbacks = [*trackers]
    if is_main():
        callbacks.append(StepLog(job.log, job.plan.examples, job.plan.epochs, job.progress))
    evaluator = None
    patience = job.settings.early_stop_patience
    if patience is not None and validator is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
        evaluator = ValidationEvaluator(validator)
    whole: Any = loss
    if dims := _matryoshka_dims(job, model):
        whole = MatryoshkaLoss(model, loss, dims, [1 / len(dims)] * len(dims))
    trainer = ContrastiveTrainer(
        model=model,
        args=_arguments(job, stops_early=evaluator is not None),
        train_dataset=Dataset.from_dict({"row": list(range(job.plan.examples))}),
        loss=whole,
        data_collator=collator,
        evaluator=evaluator,
        callbacks=callbacks,
        batches=PlannedBatches(job.plan, job.settings.seed, rank(), processes()),
        name_rows=lambda rows: _name_rows(job.data, rows),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _matryoshka_dims(job: Job, model: SentenceTransformer) -> list[int]:
    wanted = job.settings.matryoshka_dims
    full = int(model.get_embedding_dimension() or 0)
    if wanted and max(wanted) > full:
        raise TrainingDataError(
            f"finetune.matryoshka_dims = {wanted}: the model's vectors have {full} dimensions"
        )
    return sorted({*wanted, full}, reverse=True) if wanted else []


def _arguments(job: Job, stops_early: bool) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    from assets_pkg.finetune.distributed import processes

    settings, plan = job.settings, job.plan
    cpu = job.accelerator.device == "cpu"
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
        output_dir=str(job.work),
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
        optim="adamw_torch" if job.accelerator.device == "mps" else "adamw_torch_fused",
        bf16=job.bf16,
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
