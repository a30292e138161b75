"""Draws docs/graph.png, the asset graph of the README, from the code: ``python docs/draw_graph.py``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile

PICTURE = Path(__file__).with_name("graph.png")
LEFT_OUT = {"tensorrt_engine"}
PLACES: dict[str, tuple[float, float]] = {
    "raw_corpus": (0, 2.6),
    "base_model": (0, 0.75),
    "passages": (1, 2.6),
    "synthetic_qa": (1, 1.5),
    "training_set": (2, 0.75),
    "eval_set": (2, 2.25),
    "mined_train_set": (3, 0.75),
    "checkpoint": (4, 0),
    "eval_metrics": (4, 1.5),
    "promoted_model": (5, 0.75),
    "corpus_embeddings": (6, 3.25),
    "vector_index": (6, 2.45),
    "search_method": (6, 1.65),
    "onnx_model": (6, 0),
    "running_nim": (7, 0),
    "nim_eval_metrics": (7, 1.25),
}
"""Column and height of every asset."""

SAYS = {
    "raw_corpus": "your documents",
    "base_model": "before training",
    "passages": "what is found",
    "synthetic_qa": "questions",
    "training_set": "to learn from",
    "eval_set": "to measure with",
    "mined_train_set": "+ hard negatives",
    "checkpoint": "fine-tuned model",
    "eval_metrics": "measurement",
    "promoted_model": "passed the gate",
    "corpus_embeddings": "vectors",
    "vector_index": "what is searched",
    "search_method": "vectors, words, both",
    "onnx_model": "export",
    "running_nim": "embedding server",
    "nim_eval_metrics": "server, measured",
}
COLOURS = {
    "corpus": "#dbeafe",
    "sdg": "#e0e7ff",
    "prep": "#ede9fe",
    "finetune": "#fce7f3",
    "eval": "#fee2e2",
    "export": "#ffedd5",
    "deploy": "#fef3c7",
    "reindex": "#dcfce7",
}
WIDTH, HEIGHT, COLUMN = 1.72, 0.56, 2.0


def arrows() -> list[tuple[str, str]]:
    """(input, asset), without those that lead from an input of an input: they are many and say nothing new."""
    parents = _parents()
    return sorted(
        (parent, asset)
        for asset, direct in parents.items()
        for parent in direct
        if not any(parent in _above(other, parents) for other in direct)
    )


def _above(asset: str, parents: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    for parent in parents[asset]:
        found |= {parent, *_above(parent, parents)}
    return found


def _parents() -> dict[str, set[str]]:
    graph = _graph()
    return {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
        if key.to_user_string() not in LEFT_OUT
    }


def groups() -> dict[str, str]:
    """The group of every asset."""
    graph = _graph()
    return {key.to_user_string(): graph.get(key).group_name or "" for key in graph.get_all_asset_keys()}


@cache
def _graph() -> Any:
    return build_definitions(load_profile("laptop"), include=()).resolve_asset_graph()


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow begins and ends: at the sides of boxes, in one column at their upper and lower edges."""
    (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
    if x != to_x:
        return (COLUMN * x + WIDTH, y + HEIGHT / 2), (COLUMN * to_x, to_y + HEIGHT / 2)
    middle = COLUMN * x + WIDTH / 2
    return ((middle, y), (middle, to_y + HEIGHT)) if y > to_y else ((middle, y + HEIGHT), (middle, to_y))


def draw() -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(15.6, 5.0), dpi=130)
    for start, end in arrows():
        begins, ends = _ends(start, end)
        line = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "#94a3b8", "zorder": 1}
        axes.add_patch(FancyArrowPatch(begins, ends, **line))
    of_group = groups()
    for name, (x, y) in PLACES.items():
        box = FancyBboxPatch(
            (COLUMN * x, y),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=COLOURS[of_group[name]],
            edgecolor="#475569",
            zorder=2,
        )
        axes.add_patch(box)
        middle = COLUMN * x + WIDTH / 2
        axes.text(
            middle, y + 0.37, name, ha="center", va="center", fontsize=10.5, family="monospace", zorder=3
        )
        axes.text(
            middle, y + 0.15, SAYS[name], ha="center", va="center", fontsize=9.5, color="#334155", zorder=3
        )
    axes.set_xlim(-0.1, COLUMN * 7 + WIDTH + 0.1)
    axes.set_ylim(-0.15, 4.0)
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(PICTURE, metadata={"Software": None})


if __name__ == "__main__":
    draw()
