"""The report as one self-contained HTML page, rendered from the report's files, with a verdict at the top."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.orchestration.html_page import data_uri, render_page, scale_of
from assets_pkg.retrieval.metrics import main_metric
from storage.files import write_atomic
from storage.progress import duration

TEMPLATE = Path(__file__).with_name("report.html")
PICTURES = {"bars.png": "Means of both models", "gains.png": "Gain of every query"}
CURVES = "loss.png"
MAIN = ("NDCG", "Recall", "MRR", "MAP")
"""Families of the metrics that are always visible."""


def write_page(folder: Path, settings: EvalSettings) -> None:
    """Write ``report.html`` into a report's folder, from the other files in it."""
    results = _read(folder / "eval_results.json", {})
    comparison = _read(folder / "comparison.json", {})
    metrics, metric = comparison["metrics"], main_metric("NDCG", settings.k_values)
    slices = [row for row in _read(folder / "slices.json", []) if row["metric"] == metric]
    dimensions = _read(folder / "dimensions.json", [])
    main = [main_metric(family, settings.k_values) for family in MAIN]
    page = render_page(
        TEMPLATE,
        verdict=verdict(comparison, metric, results["metadata"]["models"]),
        metadata=results["metadata"],
        results={name: results[name] for name in results["metadata"]["models"]},
        mrr=results["mrr"],
        comparison=comparison,
        confidence=f"{comparison['confidence']:.0%}",
        main_metrics=main,
        scale=scale_of(metrics.values()),
        slices=slices,
        slice_scale=scale_of(slices),
        dimensions=dimensions,
        dimension_scale=scale_of(dimensions),
        changes=_read(folder / "changes.json", {}),
        pictures={
            title: data_uri(folder / name) for name, title in PICTURES.items() if (folder / name).exists()
        },
        questions=_read(folder / "questions.json", {}),
        training=_training(_read(folder / "training.json", {})),
        curves=data_uri(folder / CURVES) if (folder / CURVES).exists() else "",
        settings=settings.model_dump(mode="json"),
    )
    write_atomic(folder / "report.html", page)


def _training(summary: Mapping[str, Any]) -> dict[str, str]:
    """What the page shows of a checkpoint's summary."""
    plan: Mapping[str, Any] = summary.get("plan", {})
    lines = {
        "base model": summary.get("base_model"),
        "not trained, because": summary.get("reason"),
        "questions": plan.get("examples"),
        "steps": _steps(summary, plan),
        "loss": _from_to(summary, "initial_loss", "final_loss"),
        "validation nDCG@10": _from_to(summary, "validation_ndcg_before", "validation_ndcg_after"),
        "share of the tuned weights": summary.get("merge_weight"),
        "time": duration(summary["training_seconds"]) if summary.get("training_seconds") else None,
        "device": summary.get("device"),
        "precision": summary.get("precision"),
    }
    return {name: str(value) for name, value in lines.items() if value is not None}


def _steps(summary: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    if not summary.get("trained"):
        return None
    return f"{summary['steps_done']} of {plan['steps']}, {plan['epochs']} epoch(s) in batches of {plan['batch_size']}"


def _from_to(summary: Mapping[str, Any], before: str, after: str) -> str | None:
    if summary.get(before) is None or summary.get(after) is None:
        return None
    return f"{summary[before]:.4f} → {summary[after]:.4f}"


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else otherwise


@dataclass(frozen=True)
class Verdict:
    """The conclusion of a report; ``tone``: ``good``, ``bad`` or ``even``."""

    tone: str
    title: str
    lines: tuple[str, ...]


def verdict(comparison: Mapping[str, Any], metric: str, models: Mapping[str, str]) -> Verdict:
    """The conclusion from a report's ``comparison.json``.

    Args:
        metric: the main metric.
        models: digest by model name.
    """
    metrics: Mapping[str, Mapping[str, Any]] = comparison["metrics"]
    if not metrics:
        return Verdict("even", f"{', '.join(models)} on {comparison['queries']} queries", ())
    if models["base"] == models["finetuned"]:
        return Verdict("even", "The checkpoint is the base model: nothing was trained", ())
    row = metrics[metric]
    interval = f"{comparison['confidence']:.0%} interval"
    figures = (
        f"{row['delta']:+.4f} {metric} ({interval} {_interval(row)}, p {row['p_value']:.4f}) on "
        f"{comparison['queries']} queries: {row['wins']} gained, {row['losses']} lost, {row['ties']} stayed."
    )
    tone, title = _direction(row)
    title = f"{title}: {metric} {row['base']:.3f} → {row['finetuned']:.3f}"
    lines = [figures, _others(metrics, metric)]
    if tone == "even":
        lines.append(
            f"The minimum detectable gain of this eval set is {row['detectable']:.4f}; with more queries it is smaller."
        )
    lines.append(
        "Whether the model is promoted is the gate's decision: see promoted_model, or retune promote --show."
    )
    return Verdict(tone, title, tuple(lines))


def _direction(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["low"] > 0:
        return "good", "The fine-tuned model is better"
    if row["high"] < 0:
        return "bad", "The fine-tuned model is worse"
    return "even", "No significant difference"


def _others(metrics: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    worse = {name: row for name, row in metrics.items() if name != metric and row["high"] < 0}
    if not worse:
        return "No other metric is significantly worse."
    listed = ", ".join(f"{name} {row['delta']:+.4f} {_interval(row)}" for name, row in worse.items())
    return f"Significantly worse: {listed}."


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{row['low']:+.4f}, {row['high']:+.4f}]"
