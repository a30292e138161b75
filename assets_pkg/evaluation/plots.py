"""Pictures of a comparison, as PNG; the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def draw_gains(gains: NDArray[np.float64], metric: str, path: Path) -> None:
    """Every query's gain, sorted: float64 [n]."""
    figure = _figure(7, 2.8)
    axes = figure.subplots()
    ordered = sorted(gains.tolist(), reverse=True)
    colours = ["tab:green" if gain > 0 else "tab:red" for gain in ordered]
    axes.bar(range(len(ordered)), ordered, width=1.0, color=colours)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("queries, the largest gain first")
    axes.set_ylabel(f"gain in {metric}")
    _save(figure, path)


def draw_slices(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """The gain of every part of the exam with its interval."""
    figure = _figure(7, 0.8 + 0.28 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        axes.plot([row["low"], row["high"]], [place, place], color="tab:blue", linewidth=2)
        axes.plot(row["delta"], place, "o", color="tab:blue")
    names = [f"{row['kind']}: {str(row['value'])[:48]} ({row['queries']})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"gain in {metric}, with its interval")
    _save(figure, path)


def draw_dimensions(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Quality of base and fine-tuned model over the length of the vectors."""
    figure = _figure(7, 3)
    axes = figure.subplots()
    lengths = [row["dimensions"] for row in rows]
    for model in ("base", "finetuned"):
        axes.plot(lengths, [row[model] for row in rows], marker="o", label=model)
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
