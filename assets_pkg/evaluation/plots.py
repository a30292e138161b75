"""Plots of a comparison, as PNG; the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.compare import Difference
from assets_pkg.retrieval.metrics import RetrievalScores, main_metric

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


COLOURS = {"base": "tab:gray", "finetuned": "tab:blue"}
BARS = ("NDCG", "Recall", "MAP", "MRR")


def draw_bars(
    scores: Mapping[str, RetrievalScores],
    differences: Mapping[str, Difference],
    settings: EvalSettings,
    path: Path,
) -> None:
    """Mean scores of each model at the cut-off nearest to 10; the fine-tuned one with the interval of its gain."""
    names = [main_metric(family, settings.k_values) for family in BARS]
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    width = 0.8 / len(scores)
    for number, (model, each) in enumerate(scores.items()):
        means = each.means()
        positions = [each + width * (number - (len(scores) - 1) / 2) for each in range(len(names))]
        heights = [means[name] for name in names]
        gains = [differences[name] for name in names] if model == "finetuned" and differences else []
        whiskers = [[gain.delta - gain.low for gain in gains], [gain.high - gain.delta for gain in gains]]
        bars = axes.bar(
            positions,
            heights,
            width,
            yerr=whiskers if gains else None,  # drawn by bar(), so that the labels are above it
            capsize=4,
            label=model,
            color=COLOURS.get(model),
        )
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.legend(loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 1.16))
    axes.spines[["top", "right"]].set_visible(False)
    if differences:
        axes.set_xlabel(f"whiskers: {settings.confidence:.0%} interval of the gain over the base", fontsize=8)
    _save(figure, path)


def draw_gains(gains: NDArray[np.float64], metric: str, path: Path) -> None:
    """Every query's gain, sorted: float64 [n]."""
    figure = _figure(7, 2.8)
    axes = figure.subplots()
    ordered = sorted(gains.tolist(), reverse=True)
    colours = ["tab:green" if gain > 0 else "tab:red" for gain in ordered]
    axes.bar(range(len(ordered)), ordered, width=1.0, color=colours)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    gained, lost = (sum(sign * gain > 0 for gain in ordered) for sign in (1, -1))
    axes.set_xlabel(
        f"queries, the largest gain first: {gained} gained, {lost} lost, {len(ordered) - gained - lost} unchanged"
    )
    axes.set_ylabel(f"gain in {metric}")
    _save(figure, path)


def draw_slices(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """The gain on every slice of the eval set, with its interval."""
    figure = _figure(7, 0.8 + 0.28 * len(rows))
    axes = figure.subplots()
    for position, row in enumerate(reversed(rows)):
        axes.plot([row["low"], row["high"]], [position, position], color="tab:blue", linewidth=2)
        axes.plot(row["delta"], position, "o", color="tab:blue")
    names = [f"{row['kind']}: {str(row['value'])[:48]} ({row['queries']})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"gain in {metric}, with its interval")
    _save(figure, path)


def draw_dimensions(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """The score of base and fine-tuned model by the number of dimensions."""
    figure = _figure(7, 3)
    axes = figure.subplots()
    lengths = [row["dimensions"] for row in rows]
    for model in ("base", "finetuned"):
        axes.plot(lengths, [row[model] for row in rows], marker="o", label=model, color=COLOURS[model])
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("dimensions")
    axes.set_ylabel(metric)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
