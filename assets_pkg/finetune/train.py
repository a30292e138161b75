"""Fine-tuning: from a mined training set and a base checkpoint to a tuned checkpoint, in one process or as one rank of
several."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.curves import draw_curves, read_log
from assets_pkg.finetune.data import ValidationData, read_train_data, read_validation_data
from assets_pkg.finetune.distillation import FILE, read_distillation, teaching
from assets_pkg.finetune.mixing import with_general_pairs
from assets_pkg.finetune.model_card import model_card
from assets_pkg.finetune.model_io import attention_of, copy_unchanged, load_for_training, save_consolidated
from assets_pkg.finetune.plan import check_settings, describe_plan, plan_training
from assets_pkg.finetune.preflight import admit_training, check_disk_space, fits_whole, workload_of
from assets_pkg.finetune.run import TrainingRun, discard_other_run, settle_precision
from assets_pkg.finetune.saved_model import check_saved
from assets_pkg.finetune.trainer import build_loss, build_trainer
from assets_pkg.finetune.training_log import trackers
from assets_pkg.finetune.validation import merge_with_base
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.files import write_atomic, write_json
from storage.progress import Note, Progress, no_note, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from assets_pkg.finetune.batches import PairCollator
    from assets_pkg.finetune.loss import ContrastiveLoss
    from assets_pkg.finetune.validation import Validator


def finetune(
    mined: MinedTrainSet,
    base: Checkpoint,
    model: ModelSettings,
    settings: FinetuneSettings,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> None:
    """Write a tuned checkpoint into ``folder``.

    Writes ``model/consolidated/`` (loads in ``SentenceTransformer``), ``training.jsonl``, ``loss.png`` and
    ``summary.json``. If the base has no headroom (``headroom_ndcg`` on the validation questions, or
    ``headroom_loss`` on the first batch where there are none) nothing is trained and the checkpoint is the base.
    With ``settings.teacher`` the model also learns what ``distillation.make_distillation`` wrote into ``folder``.
    An interrupted run in ``folder`` is resumed at its last checkpoint, and ends in the same weights (to rounding, where
    the memory that is free now decides otherwise about whole batches).

    In a process group (``distributed.init_process_group``) all ranks call it and train one model, as one process with
    the same global batch would; rank 0 writes it. ``note`` receives the plan before the first step.

    Raises:
        RetrieverFileError: a file of the training set is missing or malformed.
        TrainingDataError: the training set cannot be used, or lacks validation questions that a setting needs.
        TrainingStopped: the loss or its gradient is not finite.
        SavedModelError: the saved checkpoint is not the trained model.
        DiskSpaceError: the disk has too little space for checkpoints and result.
        NotEnoughMemoryError: the accelerator has too little memory; no weights were loaded.
    """
    from assets_pkg.finetune.batches import BROUGHT
    from assets_pkg.finetune.distributed import broadcast, is_main, main_first, world_size

    data = read_train_data(mined.unrolled, settings.train_n_passages - 1)
    if settings.mix is not None:
        data = with_general_pairs(data, settings.mix, settings.seed)
    validation = read_validation_data(mined.path / "val.json")
    check_settings(mined, settings, data, validation)
    settings = settle_precision(settings, accelerator, folder, note)
    plan = plan_training(len(data.examples), settings, data.median_negatives)
    taught = read_distillation(folder, mined) if settings.teacher else None
    questions = plan.batch_size * (1 if taught is None else 1 + BROUGHT)
    load = workload_of(base.model, model, settings, data, questions, world_size())
    if load is not None:
        admit_training(load, settings, accelerator)
    whole = broadcast(load is not None and fits_whole(load, settings, accelerator))
    run = TrainingRun(
        mined, base, model, settings, accelerator, folder, progress, note, data, plan, taught, whole
    )
    with main_first():
        discard_other_run(run)
    if is_main():
        describe_plan(plan, note)
        if whole:
            note("memory is enough for whole batches: computed without a gradient cache, same result")
    results = _run(run, validation)
    if is_main():
        write_results(run, results)


def _run(run: TrainingRun, validation: ValidationData | None) -> dict[str, Any]:
    """Train unless there is no headroom; the main process writes the model. Returns values of ``summary.json``."""
    from assets_pkg.finetune.batches import collator_for
    from assets_pkg.finetune.distributed import broadcast, is_main
    from assets_pkg.finetune.validation import Validator

    tuned = load_for_training(run.base.model, run.model, run.settings, run.accelerator)
    collator = collator_for(tuned, run.data, run.model, run.taught)
    progress = run.progress if is_main() else no_progress
    validator = Validator(tuned, validation, run.model, run.bf16, progress) if validation else None
    loss = build_loss(run, tuned)
    before = validator.scores(tuned) if validator else None
    ndcg = None if before is None else float(before.mean())
    results: dict[str, Any] = {"validation_ndcg_before": ndcg, "attention": attention_of(tuned)}
    reason = broadcast(no_headroom(run, ndcg, loss, collator))
    if reason is not None:
        if is_main():
            copy_unchanged(run.base.model, run.target)
        return results | {"trained": False, "reason": reason}
    trained = _train(run, tuned, loss, collator, validator)
    results |= {"trained": True, "steps_done": trained}
    if is_main():
        results |= _evaluate_and_save(run, tuned, validator, before)
    return results


def no_headroom(
    run: TrainingRun, ndcg: float | None, loss: ContrastiveLoss, collator: PairCollator
) -> str | None:
    """The reason why the base has no headroom for training, or None.

    Args:
        ndcg: nDCG@10 of the base on the validation questions, if there are any.
    """
    limit = run.settings.headroom_ndcg
    if ndcg is not None:
        if ndcg <= limit:
            return None
        return (
            f"the base already has nDCG@10 {ndcg:.3f} on the validation questions (headroom_ndcg {limit:g})"
        )
    first = _first_loss(run, loss, collator)
    limit = run.settings.headroom_loss
    if first >= limit:
        return None
    return f"the loss of the first batch is already {first:.4f} (headroom_loss {limit:g})"


def _first_loss(run: TrainingRun, loss: ContrastiveLoss, collator: PairCollator) -> float:
    import torch

    from assets_pkg.finetune.batches import PlannedBatches

    rows = next(iter(PlannedBatches(run.plan, run.settings.seed)))
    batch = collator([{"row": row} for row in rows])
    device = torch.device(run.accelerator.device)
    features = [
        {key: batch[f"{kind}_{key}"].to(device) for key in ("input_ids", "attention_mask")}
        for kind in ("query", "passage")
    ]
    label = {key: value.to(device) for key, value in batch["label"].items()}
    loss.model.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=run.bf16):
        return float(loss(features, label))


def _train(
    run: TrainingRun,
    model: SentenceTransformer,
    loss: ContrastiveLoss,
    collator: PairCollator,
    validator: Validator | None,
) -> int:
    """Train ``model`` in place, from the last checkpoint if there is one; returns the number of steps done."""
    from assets_pkg.finetune.distributed import is_main, main_first
    from assets_pkg.finetune.model_io import add_lora, merge_lora
    from assets_pkg.finetune.trainer import last_checkpoint

    if run.settings.lora_rank is not None:
        add_lora(model, run.settings.lora_rank, run.settings.dropout, run.settings.seed)
    check_disk_space(run.folder, model)
    with main_first():
        checkpoint = last_checkpoint(run.work)
    with trackers(run) if is_main() else nullcontext([]) as callbacks:
        trainer = build_trainer(run, model, loss, collator, validator, callbacks)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if run.settings.lora_rank is not None:
        merge_lora(model)
    return trainer.state.global_step


def _evaluate_and_save(
    run: TrainingRun,
    tuned: SentenceTransformer,
    validator: Validator | None,
    before: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """Evaluate the trained model, merge it with the base if that is set, and save it; returns values of
    ``summary.json``.

    Args:
        before: the base's scores of the validation questions.
    """
    results: dict[str, Any] = {}
    if validator is not None and before is not None:
        after = validator.scores(tuned)
        results["validation_ndcg_after"] = float(after.mean())
        if run.settings.merge_with_base:
            results |= merge_with_base(run, tuned, validator, before, after)
    if results.get("merge_weight") == 0:
        copy_unchanged(run.base.model, run.target)
    else:
        save_consolidated(tuned, run.base.model, run.target, run.work)
        check_saved(
            tuned.float(),
            run.base.model,
            run.target,
            learned=before is not None and results["validation_ndcg_after"] != float(before.mean()),
            bf16=run.bf16,
            trust_remote_code=run.model.trust_remote_code,
        )
    return results


def write_results(run: TrainingRun, results: dict[str, Any]) -> None:
    """Write ``summary.json``, the loss curve and the model card; remove the checkpoints."""
    log = read_log(run.log) if results["trained"] else []
    if log:
        draw_curves(log, run.folder / "loss.png")
    else:
        run.log.unlink(missing_ok=True)
    seconds = sum(
        run.plan.examples * run.plan.epochs / run.plan.steps / line["examples_per_second"] for line in log
    )
    summary = {
        **results,
        "plan": run.plan.as_dict(),
        "initial_loss": log[0]["loss"] if log else None,
        "final_loss": log[-1]["loss"] if log else None,
        "training_seconds": round(seconds, 1),
        "examples_per_second": round(run.plan.examples * run.plan.epochs / seconds, 1) if seconds else None,
        "device": run.accelerator.name,
        "precision": "bf16" if run.bf16 else "fp32",
        **teaching(run.settings, run.taught),
    }
    if results["trained"] and results.get("merge_weight") != 0:
        _write_card(run, results)
    shutil.rmtree(run.work)
    (run.folder / FILE).unlink(missing_ok=True)
    write_json(run.folder / "summary.json", summary, ensure_ascii=True)


def _write_card(run: TrainingRun, results: dict[str, Any]) -> None:
    try:
        base_summary = run.base.summary()
    except FileNotFoundError:
        base_summary = {}
    figures = {
        "questions": run.plan.examples,
        "optimizer steps": results["steps_done"],
        "validation nDCG@10 before": results["validation_ndcg_before"],
        "validation nDCG@10 after": results.get("validation_ndcg_after"),
        "share of the tuned weights": results.get("merge_weight"),
    }
    card = model_card(
        base_summary,
        run.base.version,
        run.mined.version,
        run.model,
        settings=run.settings.decisive(),
        results={name: value for name, value in figures.items() if value is not None},
    )
    write_atomic(run.folder / "model" / "consolidated" / "README.md", card)
