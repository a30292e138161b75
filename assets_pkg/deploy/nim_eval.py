"""Drift: the served endpoint's retrieval metrics against its checkpoint's, with the recipe's tolerances."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.errors import RetuneError
from storage.files import write_json

TOLERANCE, TOLERANCE_BELOW_5 = 0.01, 0.03
"""The recipe's: a single query changes a metric more at a small cut-off."""


class DriftError(RetuneError):
    """The served model's metrics differ from its checkpoint's."""


@dataclass(frozen=True)
class Drift:
    """One metric on both sides; ``drift`` is served minus checkpoint."""

    metric: str
    checkpoint: float
    nim: float
    drift: float
    tolerance: float
    within: bool


def measure_drift(checkpoint: Mapping[str, float], served: Mapping[str, float]) -> list[Drift]:
    """Both sides' means (``NDCG@10``: value), metric by metric, with the recipe's tolerances."""
    rows: list[Drift] = []
    for metric, value in served.items():
        tolerance = TOLERANCE_BELOW_5 if int(metric.partition("@")[2]) < 5 else TOLERANCE
        drift = value - checkpoint[metric]
        rows.append(
            Drift(metric, checkpoint[metric], value, drift, tolerance, abs(drift) <= tolerance + 1e-9)
        )
    return rows


def require_no_drift(rows: Sequence[Drift]) -> None:
    """Raises `DriftError` naming each metric that is out of tolerance."""
    outside = [row for row in rows if not row.within]
    if outside:
        listed = ", ".join(f"{row.metric} {row.drift:+.4f} (tolerance {row.tolerance})" for row in outside)
        raise DriftError(
            f"the served model measures differently from its checkpoint: {listed}. Check the server and the "
            "export; to go on regardless: eval.fail_on_nim_metric_drift=false"
        )


def add_to_results(folder: Path, earlier: Mapping[str, Any], rows: Sequence[Drift], invalid: int) -> None:
    """Add the ``earlier`` results to ``eval_results.json`` in ``folder``, which has the served model's alone.

    One file then has ``base``, ``finetuned`` and ``nim``, as in the recipe; ``metadata.nim_drift`` has the drift.
    """
    path = folder / "eval_results.json"
    served: dict[str, Any] = json.loads(path.read_text("utf-8"))
    metadata = {
        **earlier.get("metadata", {}),
        **served["metadata"],
        "models": {**earlier.get("metadata", {}).get("models", {}), **served["metadata"]["models"]},
        "nim_drift": [asdict(row) for row in rows],
        "nim_invalid_vectors": invalid,
    }
    mrr = {**earlier.get("mrr", {}), **served["mrr"]}
    merged = {**earlier, **served, "mrr": mrr, "metadata": metadata}
    write_json(path, merged, final_newline=True)


def recorded_means(
    results: Mapping[str, Any], digest: str, eval_set: str, k_values: Sequence[int]
) -> dict[str, float] | None:
    """The means that an earlier measurement recorded for the model ``digest`` on the same eval set, if it did."""
    metadata = results["metadata"]
    if metadata["eval_set"] != eval_set or metadata["k_values"] != sorted(set(k_values)):
        return None
    for name, measured in metadata["models"].items():
        if measured == digest:
            means: dict[str, float] = dict(results["mrr"][name])
            for family in results[name]:
                means |= family
            return means
    return None
