"""What a training leaves beside the model: summary, picture, model card."""

from __future__ import annotations

import json
import shutil
from typing import Any

from assets_pkg.finetune.curves import draw_curves, read_log
from assets_pkg.finetune.job import Job
from assets_pkg.finetune.loading import attention
from assets_pkg.finetune.model_card import model_card
from storage.artifact_store import write_atomic


def write_outcome(job: Job, results: dict[str, Any]) -> None:
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


def _write_card(job: Job, results: dict[str, Any]) -> None:
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
