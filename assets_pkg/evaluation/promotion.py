"""The gate: a checkpoint becomes the promoted model only if it is really better than what it replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assets_pkg.profile import GateSettings


class GateError(Exception):
    """The gate cannot decide: the report lacks what it needs."""


@dataclass(frozen=True)
class Decision:
    """Whether the candidate passed, and why, in words for people."""

    passed: bool
    reason: str


def decide(comparison: dict[str, Any], settings: GateSettings, eval_set: str | None = None) -> Decision:
    """Apply the gate to a report's comparison of base and fine-tuned model.

    Passed when the lower end of the paired bootstrap interval of the gain lies above zero and the gain itself
    is at least ``min_delta``.

    Args:
        eval_set: the version of the exam that counts now, where it is known.

    Raises:
        GateError: the report has no comparison for the gate's metric, or was made on another exam.
    """
    measured_on = comparison.get("eval_set", eval_set)
    if eval_set is not None and measured_on != eval_set:
        raise GateError(
            f"the report was made on eval set {measured_on}, and the current one is {eval_set}: measure again "
            "(retune eval)"
        )
    measured = comparison.get("metrics", {}).get(settings.metric)
    if measured is None:
        raise GateError(
            f"the report compares no {settings.metric}: set eval_base=true and eval_finetuned=true, and add "
            "its cut-off to k_values"
        )
    delta, low, high = measured["delta"], measured["low"], measured["high"]
    gain = (
        f"{settings.metric} {measured['base']:.4f} -> {measured['finetuned']:.4f} "
        f"({delta:+.4f}, {comparison['confidence']:.0%} interval [{low:+.4f}, {high:+.4f}], "
        f"{comparison['queries']} queries)"
    )
    if low <= 0:
        return Decision(False, f"not promoted: {gain}; the interval's lower end is not above zero")
    if delta < settings.min_delta:
        return Decision(False, f"not promoted: {gain}; the gain is below min_delta = {settings.min_delta:g}")
    return Decision(True, f"promoted: {gain}")
