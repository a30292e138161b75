"""Draws docs/architecture.png: the layers, and the paths of a passage, of a query and of a model through them.

python docs/draw_architecture.py
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

PICTURE = Path(__file__).with_name("architecture.png")
WIDTH, BAND, GAP = 100.0, 8.0, 1.0
LABEL = 17.0
"""Width of the column with the layers' names, in the units of ``WIDTH``."""


@dataclass(frozen=True)
class Layer:
    """One band of the picture: what it is for, and the packages or modules in it, from left to right."""

    purpose: str
    members: tuple[str, ...]
    folder: str = "assets_pkg"


LAYERS = (
    Layer("entry points", ("definitions", "component", "build", "cli", "job_worker")),
    Layer("jobs, sensors, schedules", ("automation",)),
    Layer(
        "stages: the assets",
        (
            "corpus",
            "sdg",
            "prep",
            "finetune",
            "evaluation",
            "export",
            "deploy",
            "reindex",
            "judges",
            "image_text",
        ),
    ),
    Layer("what assets are made with", ("orchestration", "model_server")),
    Layer("search and metrics", ("retrieval",)),
    Layer("settings", ("config",)),
    Layer(
        "what assets are handed",
        ("containers", "models", "machine", "compute", "chat_model", "encoders", "vector_store"),
        "resources",
    ),
    Layer("artifacts and formats", ("artifact_store", "formats", "embedding_cache", "artifacts"), "storage"),
    Layer("the embedding server", ("nim",)),
)


@dataclass(frozen=True)
class Journey:
    """What passes through which boxes: lines, each in order; a later line starts at a box of an earlier one.

    ``shift`` keeps the lines of several journeys apart.
    """

    title: str
    colour: str
    shift: float
    lines: tuple[tuple[str, ...], ...]


JOURNEYS = (
    Journey(
        "a passage: read and cut, kept as an artifact, embedded, indexed",
        "#1f77b4",
        -1.0,
        (("corpus", "artifacts", "reindex", "encoders", "vector_store"),),
    ),
    Journey(
        "a query: asked, embedded by the model that built the index, answered from it",
        "#2ca02c",
        0.0,
        (("cli", "reindex", "encoders", "vector_store"),),
    ),
    Journey(
        "a model: trained, measured and promoted, exported, deployed, served; a sensor has the index rebuilt",
        "#d95f02",
        1.0,
        (("finetune", "evaluation", "export", "deploy", "nim"), ("evaluation", "automation", "reindex")),
    ),
)


def layout() -> dict[str, tuple[float, float, float]]:
    """Left edge, vertical centre and width of every box, by name."""
    boxes: dict[str, tuple[float, float, float]] = {}
    for row, layer in enumerate(LAYERS):
        y = -row * (BAND + GAP)
        share = (WIDTH - LABEL) / len(layer.members)
        width = min(share - GAP, 16.0)
        for column, name in enumerate(layer.members):
            boxes[name] = (LABEL + column * share + (share - width) / 2, y, width)
    return boxes


def draw(target: Path = PICTURE) -> None:
    """Write the picture as PNG."""
    figure, axes = plt.subplots(figsize=(15, 11))
    boxes = layout()
    for row, layer in enumerate(LAYERS):
        _draw_layer(axes, layer, -row * (BAND + GAP), boxes)
    for journey in JOURNEYS:
        _draw_journey(axes, journey, boxes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=12, frameon=False)
    axes.set_xlim(-1, WIDTH + 1)
    axes.set_ylim(-(len(LAYERS) - 1) * (BAND + GAP) - BAND, BAND)
    axes.set_title("A layer imports only from the layers below it", fontsize=14)
    axes.axis("off")
    figure.savefig(target, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _draw_layer(axes: Axes, layer: Layer, y: float, boxes: dict[str, tuple[float, float, float]]) -> None:
    axes.add_patch(_box(0, y, WIDTH, "#f2f2f2", "#dddddd"))
    axes.text(1, y + 1.4, f"{layer.folder}/", fontsize=11, family="monospace", va="center", color="#444444")
    axes.text(1, y - 1.4, layer.purpose, fontsize=10.5, va="center", color="#444444")
    for name in layer.members:
        left, _, width = boxes[name]
        axes.add_patch(_box(left, y, width, "white", "#888888", BAND - 2.4))
        axes.text(left + width / 2, y + 1.6, name, fontsize=9, family="monospace", ha="center", va="center")


def _draw_journey(axes: Axes, journey: Journey, boxes: dict[str, tuple[float, float, float]]) -> None:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(chain(*journey.lines)), start=1)}
    points = {name: _point(boxes[name], journey.shift) for name in numbers}
    arrow = {"arrowstyle": "-|>", "color": journey.colour, "lw": 1.8, "shrinkA": 9, "shrinkB": 9}
    for line in journey.lines:
        for start, end in pairwise(line):
            axes.annotate(
                "", points[end], points[start], arrowprops={**arrow, "connectionstyle": "arc3,rad=0.06"}
            )
    for name, (x, y) in points.items():
        title = journey.title if numbers[name] == 1 else None
        axes.plot(x, y, "o", color=journey.colour, markersize=15, label=title)
        axes.text(
            x, y, str(numbers[name]), color="white", fontsize=9, ha="center", va="center", weight="bold"
        )


def _point(box: tuple[float, float, float], shift: float) -> tuple[float, float]:
    left, y, width = box
    return left + width / 2 + shift * 2.3, y - 1.2


def _box(left: float, y: float, width: float, fill: str, edge: str, height: float = BAND) -> FancyBboxPatch:
    return FancyBboxPatch(
        (left, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.8", fc=fill, ec=edge
    )


if __name__ == "__main__":
    draw()
