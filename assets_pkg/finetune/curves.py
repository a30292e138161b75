"""The picture of a training run."""

from __future__ import annotations

from pathlib import Path


def draw_curves(log: list[dict[str, float]], path: Path) -> None:
    """Loss and learning rate over steps, as PNG."""
    from matplotlib.figure import Figure

    steps = [line["step"] for line in log]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    (loss,) = left.plot(steps, [line["loss"] for line in log], color="tab:blue", label="loss")
    (rate,) = right.plot(
        steps, [line["learning_rate"] for line in log], color="tab:orange", label="learning rate", alpha=0.7
    )
    left.set_xlabel("step")
    left.set_ylabel("loss")
    left.set_ylim(bottom=0)
    right.set_ylabel("learning rate")
    right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    left.legend(handles=[loss, rate], loc="upper right", frameon=False)
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=120, metadata={"Software": None})
