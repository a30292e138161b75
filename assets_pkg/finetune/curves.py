"""Read the log of a training run and plot its loss."""

from __future__ import annotations

import json
from pathlib import Path


def read_log(path: Path) -> list[dict[str, float]]:
    """Lines of a ``training.jsonl``; an incomplete last line, after a kill, is left out."""
    lines: list[dict[str, float]] = []
    if path.exists():
        for text in path.read_text("utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def draw_curves(log: list[dict[str, float]], path: Path) -> None:
    """Loss and learning rate over steps, as PNG."""
    from matplotlib.figure import Figure

    steps = [line["step"] for line in log]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    losses = [line["loss"] for line in log]
    (loss,) = left.plot(steps, losses, color="tab:blue", label="loss")
    (rate,) = right.plot(
        steps, [line["learning_rate"] for line in log], color="tab:orange", label="learning rate", alpha=0.7
    )
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.set_ylim(0, 1.25 * max(losses, default=0) or 1)  # space for the legend above the highest
    right.set_ylabel("learning rate")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    left.legend(handles=[loss, rate], loc="upper right", frameon=False)
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=120, metadata={"Software": None})
