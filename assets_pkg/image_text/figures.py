"""The figures of the benchmark, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

PNG: dict[str, Any] = {"dpi": 100, "metadata": {"Software": None}}


def safe_name(name: str) -> str:
    """A model's name as part of a file name, as color-perception-bench writes it."""
    return name.replace("/", "_").replace(":", "_").replace(".", "_")


def draw_correlation(
    folder: Path, name: str, colours: Sequence[Any] | None, texts: Vectors, images: Vectors
) -> Path:
    """Draw color-perception-bench's figure ``<model>_correlation.png``: distances of colours against distances of image
    vectors and of text vectors, and the histogram of the distances within pairs. Without colours, only the histogram.
    ``texts``, ``images``: float32 [n, d]."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{safe_name(name)}_correlation.png"
    figure = Figure(figsize=(12, 9 if colours else 5), layout="constrained")
    figure.suptitle(f"{name}: {len(texts)} pairs")
    if colours:
        halves: Any = figure.subfigures(2, 1)
        top, bottom = halves
        left, right = top.subplots(1, 2)
        _hexbin(figure, left, colours, images, "image")
        _hexbin(figure, right, colours, texts, "text")
        axes = bottom.subplots()
    else:
        axes = figure.subplots()
    _histogram(axes, texts, images)
    figure.savefig(path, **PNG)
    return path


def _hexbin(figure: Any, axes: Any, colours: Sequence[Any], vectors: Vectors, what: str) -> None:
    import numpy as np
    from scipy.spatial.distance import pdist

    rgb = pdist(np.asarray(colours, dtype=np.float64)) / (255 * np.sqrt(3))
    upper = np.triu_indices(len(vectors), k=1)
    distances = 1 - (vectors @ vectors.T)[upper]
    drawn = axes.hexbin(rgb, distances, gridsize=50, mincnt=1, bins="log", cmap="viridis")
    figure.colorbar(drawn, ax=axes, label="pairs (log)")
    axes.set_xlim(0, 1)
    axes.set_xlabel("RGB distance, normalised")
    axes.set_ylabel(f"cosine distance of {what} vectors")


def _histogram(axes: Any, texts: Vectors, images: Vectors) -> None:
    import numpy as np

    distances = 1 - (texts * images).sum(axis=1)
    axes.hist(distances, bins=50)
    for value, label, style in (
        (np.mean(distances), "mean", "-"),
        (np.median(distances), "median", "--"),
    ):
        axes.axvline(value, linestyle=style, color="black", label=f"{label} {value:.4f}")
    axes.legend()
    axes.set_xlabel("cosine distance of text and image")
    axes.set_ylabel("pairs")


def draw_comparison(path: Path, rows: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Draw a bar with interval for each model and condition; baselines and upper bound are hatched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    positions = list(range(len(rows), 0, -1))
    values = [row["value"] for row in rows]
    errors = [
        [max(0.0, row["value"] - row["low"]) for row in rows],
        [max(0.0, row["high"] - row["value"]) for row in rows],
    ]
    bars = axes.barh(positions, values, xerr=errors, capsize=3, color="tab:blue")
    for bar, row in zip(bars, rows, strict=True):
        if row["condition"] in ("oracle", "constant", "random"):
            bar.set(facecolor="lightgrey", hatch="//")
    axes.set_yticks(positions, [f"{row['model']}: {row['condition']}" for row in rows])
    axes.set_xlabel(f"{metric}, with interval over pairs (hatched: upper bound and baselines)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, **PNG)
