"""What a comparison comes to, in one sentence and a few lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """``tone``: ``good``, ``bad`` or ``even``."""

    tone: str
    title: str
    lines: tuple[str, ...]


def verdict(comparison: Mapping[str, Any], metric: str, models: Mapping[str, str]) -> Verdict:
    """Read a report's ``comparison.json`` by its main metric.

    Args:
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
            f"This exam shows gains from {row['detectable']:.4f} on; more queries show smaller ones."
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
    return "even", "No difference is shown"


def _others(metrics: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    fell = {name: row for name, row in metrics.items() if name != metric and row["high"] < 0}
    if not fell:
        return "No other metric fell by more than chance explains."
    told = ", ".join(f"{name} {row['delta']:+.4f} {_interval(row)}" for name, row in fell.items())
    return f"By more than chance explains fell: {told}."


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{row['low']:+.4f}, {row['high']:+.4f}]"
