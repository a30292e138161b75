"""Fine-tuning: from a mined training set and a base checkpoint to a tuned checkpoint."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.finetune.curves import draw_curves
from assets_pkg.finetune.disk import check_room
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.examples import TrainData, ValidationData, read_train_data, read_validation_data
from assets_pkg.finetune.loading import attention, load_for_training, load_model, use_bf16
from assets_pkg.finetune.memory import check_memory, mini_batches
from assets_pkg.finetune.model_card import model_card
from assets_pkg.finetune.plan import TrainingPlan, plan_training
from assets_pkg.finetune.saving import copy_unchanged, save_consolidated
from assets_pkg.finetune.tracking import TENSORBOARD, check_trackers, trackers
from assets_pkg.profile import FinetuneSettings, ModelSettings
from resources.accelerator import Accelerator
from storage.artifact_store import write_atomic
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.digests import digest_json
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss
    from assets_pkg.finetune.trainer import ContrastiveTrainer
    from assets_pkg.finetune.validation import Validator

VALIDATION_POOL = 1000
EVALUATIONS_PER_RUN = 10
MERGE_WEIGHTS = (0.25, 0.5, 0.75)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """Everything that stays the same during one call of :func:`finetune`."""

    mined: MinedTrainSet
    base: Checkpoint
    model: ModelSettings
    settings: FinetuneSettings
    accelerator: Accelerator
    folder: Path
    progress: Progress
    data: TrainData
    plan: TrainingPlan

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> Path:
        return self.folder / "training.jsonl"

    @property
    def bf16(self) -> bool:
        return use_bf16(self.settings, self.accelerator)


def finetune(
    mined: MinedTrainSet,
    base: Checkpoint,
    model: ModelSettings,
    settings: FinetuneSettings,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Write a tuned checkpoint into ``folder``.

    Makes ``model/consolidated/`` (loads in ``SentenceTransformer``), ``training.jsonl``, ``loss.png`` and
    ``summary.json``. Where the base leaves no headroom (``headroom_ndcg`` on the validation questions, or
    ``headroom_loss`` on the first batch where there are none) nothing is trained and the checkpoint is the base.
    A folder that a killed run left is taken up at its last checkpoint, and ends in the same weights.

    Called in several processes that were joined (``distributed.start``), all train one model together, as one
    process with the same global batch would; the first one writes it.

    Raises:
        RetrieverFileError: a file of the training set is missing or malformed.
        TrainingDataError: the training set cannot be used, or lacks validation questions that a setting needs.
        TrainingStopped: the loss or its gradient is no longer a finite number.
        NoRoomError: the disk is too small for checkpoints and result.
        NotEnoughMemoryError: the accelerator is too small; nothing was loaded.
    """
    from assets_pkg.finetune.distributed import is_main, main_first, processes

    data = read_train_data(mined.unrolled, settings.train_n_passages - 1)
    validation = read_validation_data(mined.path / "val.json", VALIDATION_POOL)
    _check(mined, settings, data, validation)
    plan = plan_training(len(data.examples), settings, data.median_negatives)
    check_memory(base.model, model, settings, accelerator, data, plan.batch_size, processes())
    job = _Job(mined, base, model, settings, accelerator, folder, progress, data, plan)
    logger.info("Training plan: %s", plan)
    for warning in plan.warnings:
        logger.warning("%s", warning)
    with main_first():
        _claim(job)
    results = _run(job, validation)
    if is_main():
        _finish(job, results)


def _check(
    mined: MinedTrainSet, settings: FinetuneSettings, data: TrainData, validation: ValidationData | None
) -> None:
    check_trackers(settings)
    needs = [
        name
        for name, wanted in (
            ("merge_with_base", settings.merge_with_base),
            ("early_stop_patience", settings.early_stop_patience is not None),
        )
        if wanted
    ]
    if needs and validation is None:
        raise TrainingDataError(
            f"{mined.path / 'val.json'} holds no questions, but finetune.{needs[0]} chooses by them: "
            "set prep.val_ratio above 0"
        )
    if not settings.in_batch_negatives and data.median_negatives == 0:
        raise TrainingDataError(
            f"{mined.unrolled}: most questions have no mined negatives, and finetune.in_batch_negatives is "
            "false: set it to true, or mine again with a softer prep.hard_neg_margin"
        )


def _claim(job: _Job) -> None:
    """Clear away what a run with other inputs or settings left in the folder."""
    owner = digest_json(
        [job.mined.version, job.base.version, job.model.digest(), job.settings.digest(), job.plan.as_dict()]
    )
    stamp = job.work / "run.txt"
    if not stamp.exists() or stamp.read_text("utf-8") != owner:
        shutil.rmtree(job.work, ignore_errors=True)
        shutil.rmtree(job.folder / TENSORBOARD, ignore_errors=True)
        job.log.unlink(missing_ok=True)
        write_atomic(stamp, owner)


def _run(job: _Job, validation: ValidationData | None) -> dict[str, Any]:
    """Train unless there is no headroom; leaves the model folder (in the main process) and returns what to
    report."""
    from assets_pkg.finetune.batches import collator_for
    from assets_pkg.finetune.distributed import agreed, is_main
    from assets_pkg.finetune.validation import Validator

    tuned = load_for_training(job.base.model, job.model, job.settings, job.accelerator)
    collator = collator_for(tuned, job.data, job.model)
    validator = Validator(tuned, validation, job.model, job.bf16) if validation else None
    loss = _loss(job, tuned)
    target = job.folder / "model" / "consolidated"
    before = validator.ndcg(tuned) if validator else None
    results: dict[str, Any] = {"validation_ndcg_before": before}
    reason = agreed(_no_headroom(job, before, loss, collator))
    if reason is not None:
        if is_main():
            copy_unchanged(job.base.model, target)
        return results | {"trained": False, "reason": reason}
    trained = _train(job, tuned, loss, collator, validator)
    results |= {"trained": True, "steps_done": trained}
    if is_main():
        results |= _conclude(job, tuned, validator, results)
    return results


def _conclude(
    job: _Job, tuned: SentenceTransformer, validator: Validator | None, trained: dict[str, Any]
) -> dict[str, Any]:
    """Measure what was trained, merge it if asked to, and save it; returns what to report of that."""
    results: dict[str, Any] = {}
    target = job.folder / "model" / "consolidated"
    if validator is not None:
        results["validation_ndcg_after"] = validator.ndcg(tuned)
    if job.settings.merge_with_base and validator is not None:
        results |= _merge(job, tuned, validator, trained | results)
    if results.get("merge_weight") == 0:
        copy_unchanged(job.base.model, target)
    else:
        save_consolidated(tuned, job.base.model, target, job.work)
    return results


def _loss(job: _Job, model: SentenceTransformer) -> ContrastiveLoss:
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


def _no_headroom(job: _Job, ndcg: float | None, loss: ContrastiveLoss, collator: PairCollator) -> str | None:
    """Why training would not help, or None."""
    limit = job.settings.headroom_ndcg
    if ndcg is not None:
        if ndcg <= limit:
            return None
        return (
            f"the base already has nDCG@10 {ndcg:.3f} on the validation questions (headroom_ndcg {limit:g})"
        )
    first = _first_loss(job, loss, collator)
    limit = job.settings.headroom_loss
    if first >= limit:
        return None
    return f"the loss of the first batch is already {first:.4f} (headroom_loss {limit:g})"


def _first_loss(job: _Job, loss: ContrastiveLoss, collator: PairCollator) -> float:
    import torch

    from assets_pkg.finetune.batches import PlannedBatches

    rows = next(iter(PlannedBatches(job.plan, job.settings.seed)))
    batch = collator([{"row": row} for row in rows])
    device = torch.device(job.accelerator.device)
    features = [
        {key: batch[f"{kind}_{key}"].to(device) for key in ("input_ids", "attention_mask")}
        for kind in ("query", "passage")
    ]
    label = {key: value.to(device) for key, value in batch["label"].items()}
    loss.model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=job.bf16):
        return float(loss(features, label))


# ---- training ----------------------------------------------------------------------------------------------


def _train(
    job: _Job,
    model: SentenceTransformer,
    loss: ContrastiveLoss,
    collator: PairCollator,
    validator: Validator | None,
) -> int:
    """Train ``model`` in place, from the last checkpoint if there is one; returns the steps done."""
    from assets_pkg.finetune.distributed import main_first
    from assets_pkg.finetune.lora import add_lora, merge_lora
    from assets_pkg.finetune.trainer import last_checkpoint

    if job.settings.lora_rank is not None:
        add_lora(model, job.settings.lora_rank, job.settings.dropout, job.settings.seed)
    check_room(job.folder, model)
    trainer = _trainer(job, model, loss, collator, validator)
    with main_first():
        checkpoint = last_checkpoint(job.work)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if job.settings.lora_rank is not None:
        merge_lora(model)
    return trainer.state.global_step


def _trainer(
    job: _Job,
    model: SentenceTransformer,
    loss: ContrastiveLoss,
    collator: PairCollator,
    validator: Validator | None,
) -> ContrastiveTrainer:
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from assets_pkg.finetune.batches import PlannedBatches
    from assets_pkg.finetune.distributed import is_main, processes, rank
    from assets_pkg.finetune.trainer import ContrastiveTrainer, StepLog, ValidationEvaluator

    callbacks: list[Any] = []
    if is_main():
        callbacks.append(StepLog(job.log, job.plan.examples, job.plan.epochs, job.progress))
        callbacks += trackers(job.folder, job.settings)
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


def _matryoshka_dims(job: _Job, model: SentenceTransformer) -> list[int]:
    wanted = job.settings.matryoshka_dims
    full = int(model.get_embedding_dimension() or 0)
    if wanted and max(wanted) > full:
        raise TrainingDataError(
            f"finetune.matryoshka_dims = {wanted}: the model's vectors have {full} dimensions"
        )
    return sorted({*wanted, full}, reverse=True) if wanted else []


def _arguments(job: _Job, stops_early: bool) -> Any:
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


# ---- after training ----------------------------------------------------------------------------------------


def _merge(
    job: _Job, tuned: SentenceTransformer, validator: Validator, results: dict[str, Any]
) -> dict[str, Any]:
    """Average base and tuned weights with the share of the tuned ones that is best on the validation questions
    (model soups, Wortsman et al. 2022, arXiv 2203.05482); ties go to the share nearer to the base."""
    base = load_model(job.base.model, "cpu", trust_remote_code=job.model.trust_remote_code).state_dict()
    own = {name: value.detach().clone() for name, value in tuned.state_dict().items()}

    def load(share: float) -> None:
        tuned.load_state_dict(
            {
                name: value.lerp(base[name].to(value), 1 - share) if value.is_floating_point() else value
                for name, value in own.items()
            }
        )

    scores = {0.0: results["validation_ndcg_before"], 1.0: results["validation_ndcg_after"]}
    for share in MERGE_WEIGHTS:
        load(share)
        scores[share] = validator.ndcg(tuned)
    best = min(scores, key=lambda share: (-scores[share], share))
    load(best)
    return {
        "merge_weight": best,
        "merge_scores": dict(sorted(scores.items())),
        "validation_ndcg_after": scores[best],
    }


def _finish(job: _Job, results: dict[str, Any]) -> None:
    from assets_pkg.finetune.trainer import read_log

    log = read_log(job.log) if results["trained"] else []
    if log:
        draw_curves(log, job.folder / "loss.png")
    else:
        job.log.unlink(missing_ok=True)
    seconds = sum(
        job.plan.examples * job.plan.epochs / job.plan.steps / line["examples_per_second"] for line in log
    )
    summary = {
        **results,
        "plan": job.plan.as_dict(),
        "initial_loss": log[0]["loss"] if log else None,
        "final_loss": log[-1]["loss"] if log else None,
        "training_seconds": round(seconds, 1),
        "examples_per_second": round(job.plan.examples * job.plan.epochs / seconds, 1) if seconds else None,
        "device": job.accelerator.name,
        "precision": "bf16" if job.bf16 else "fp32",
        "attention": attention(job.model, job.settings, job.accelerator),
    }
    if results["trained"] and results.get("merge_weight") != 0:
        _write_card(job, results)
    shutil.rmtree(job.work)
    write_atomic(job.folder / "summary.json", json.dumps(summary, indent=1))


def _write_card(job: _Job, results: dict[str, Any]) -> None:
    try:
        base_summary = job.base.summary()
    except FileNotFoundError:
        base_summary = {}
    figures = {
        "questions": job.plan.examples,
        "optimizer steps": results["steps_done"],
        "validation nDCG@10 before": results["validation_ndcg_before"],
        "validation nDCG@10 after": results.get("validation_ndcg_after"),
        "share of the tuned weights": results.get("merge_weight"),
    }
    card = model_card(
        base_summary,
        job.base.version,
        job.mined.version,
        job.model,
        settings=job.settings.decisive(),
        results={name: value for name, value in figures.items() if value is not None},
    )
    write_atomic(job.folder / "model" / "consolidated" / "README.md", card)
