"""The report: intervals over pairs, images against captions on the same pairs, comparison with the baseline, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.sections.evaluation import IntervalSettings
from assets_pkg.image_text.captions import CAPTIONERS
from assets_pkg.image_text.figures import draw_comparison
from assets_pkg.image_text.measures import Ranks
from assets_pkg.image_text.page import write_page
from assets_pkg.image_text.scores import MEASURED
from assets_pkg.orchestration.metadata import as_plain_markdown
from storage.artifacts import Captions, ImageTextScores
from storage.files import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

MAIN = "MRR t2i"
BLOCK = 500
"""Bootstrap samples drawn at a time."""

Table = dict[str, dict[str, dict[str, "Values"]]]
"""Values of the pairs, float64 [n], by model, condition and metric."""


def write_report(
    scores: ImageTextScores,
    captions: Captions | None,
    intervals: IntervalSettings,
    recall_at: list[int],
    folder: Path,
) -> None:
    """Write an `ImageTextReport` folder."""
    values = _pair_values(scores.ranks(), recall_at)
    bounds = _Bootstrap(intervals)
    measured = [
        {"model": model, "condition": condition, "metric": metric, **bounds.mean(row)}
        for model, conditions in values.items()
        for condition, metrics in conditions.items()
        for metric, row in metrics.items()
    ]
    document = {
        "pairs": scores.scores()["pairs"],
        "confidence": intervals.confidence,
        "measured": measured,
        "caption_against_native": _against(values, "caption", "native", bounds),
        "fused_against_native": _against(values, "fused", "native", bounds),
        "against_floor": _against_floor(values, bounds),
        "main": MAIN,
        "captioner": None if captions is None else CAPTIONERS[captions.summary()["captioner"]],
    }
    write_json(folder / "report.json", document, ensure_ascii=True)
    for metric in (f"R@{recall_at[0]} t2i", MAIN):
        rows = [row for row in measured if row["metric"] == metric]
        draw_comparison(folder / f"{metric.split()[0].replace('@', '').lower()}.png", rows, metric)
    costs = _costs(scores, captions)
    write_json(folder / "costs.json", costs, ensure_ascii=True)
    (folder / "report.md").write_text(_page(document, scores, costs), "utf-8")
    write_json(folder / "summary.json", _summary(document), ensure_ascii=True)
    write_page(folder, scores, captions)


class _Bootstrap:
    """Percentile bootstrap intervals of means over pairs. Every metric uses the same samples."""

    def __init__(self, settings: IntervalSettings):
        self._settings = settings

    def mean(self, row: Values) -> dict[str, float]:
        import numpy as np

        if np.ptp(row) == 0:
            return {"value": float(row[0]), "low": float(row[0]), "high": float(row[0])}
        tails = [(1 - self._settings.confidence) / 2, (1 + self._settings.confidence) / 2]
        low, high = np.quantile(self._means(row), tails)
        return {"value": float(row.mean()), "low": float(low), "high": float(high)}

    def _means(self, row: Values) -> Values:
        import numpy as np

        rng = np.random.default_rng(self._settings.bootstrap_seed)
        left, parts = self._settings.bootstrap_samples, []
        while left > 0:
            draws = rng.integers(len(row), size=(min(left, BLOCK), len(row)))
            parts.append(row[draws].mean(axis=1))
            left -= BLOCK
        return np.concatenate(parts)


def _pair_values(ranks: Mapping[str, Any], recall_at: list[int]) -> Table:
    import numpy as np

    values: Table = {}
    for model, conditions in ranks.items():
        for condition, directions in conditions.items():
            metrics: dict[str, Values] = {}
            for direction, row in directions.items():
                of_pairs = Ranks(np.array(row["greater"]), np.array(row["equal"]))
                metrics |= {f"R@{k} {direction}": of_pairs.hits(k) for k in recall_at}
                metrics[f"MRR {direction}"] = of_pairs.reciprocal()
            values.setdefault(model, {})[condition] = metrics
    return values


def _against(values: Table, one: str, other: str, bounds: _Bootstrap) -> list[dict[str, Any]]:
    """Paired differences ``one`` - ``other`` for every metric and every model measured in both conditions."""
    return [
        {"model": model, "metric": metric, **bounds.mean(conditions[one][metric] - conditions[other][metric])}
        for model, conditions in values.items()
        if one in conditions and other in conditions
        for metric in conditions[one]
    ]


def _against_floor(values: Table, bounds: _Bootstrap) -> list[dict[str, Any]]:
    """Difference of the main metric to the constant caption, with interval, for every model and measured condition."""
    return [
        {"model": model, "condition": condition, "above_floor": made["low"] > 0, **made}
        for model, conditions in values.items()
        for condition in MEASURED
        if condition in conditions
        for made in [bounds.mean(conditions[condition][MAIN] - conditions["constant"][MAIN])]
    ]


def _costs(scores: ImageTextScores, captions: Captions | None) -> dict[str, Any]:
    """Seconds of embedding by model and condition (cached vectors take none), and the summary of captioning."""
    timing: dict[str, Any] = json.loads((scores.path / "timing.json").read_text("utf-8"))
    return {"embedding_seconds": timing, "captioning": captions.summary() if captions is not None else None}


def _page(document: Mapping[str, Any], scores: ImageTextScores, costs: Mapping[str, Any]) -> str:
    figures = scores.scores()["models"]
    lines = [
        "# Images and texts",
        "",
        *([f"Captions: {document['captioner']}.", ""] if document["captioner"] else []),
        f"{document['pairs']} pairs. Mean distance is color-perception-bench's score, which is good for a model that "
        "gives every image the same vector: compare it with the baselines (constant, random) and the upper bound "
        "(oracle).",
        "",
        *_figures_table(figures, document["measured"]),
        "",
        f"## Against the baseline ({MAIN} minus that of a constant caption, {document['confidence']:.0%} interval)",
        "",
        "| model | condition | difference | interval | above the baseline |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {as_plain_markdown(row['model'])} | {row['condition']} | {row['value']:+.4f} | "
        f"{row['low']:+.4f} to {row['high']:+.4f} | {'yes' if row['above_floor'] else 'no'} |"
        for row in document["against_floor"]
    ]
    lines += ["", "## Captions instead of images (paired, same pairs)", "", *_side_by_side(document)]
    lines += ["", "## Cost (cached vectors took no time)", "", *_cost_lines(costs)]
    skipped = scores.skipped()
    lines += ["", "## Models not measured", ""]
    lines += [
        f"- {as_plain_markdown(name)}: {as_plain_markdown(reason)}" for name, reason in skipped.items()
    ] or ["None: all models were available."]
    return "\n".join(lines) + "\n"


def _figures_table(figures: Mapping[str, Any], measured: list[dict[str, Any]]) -> list[str]:
    main = {(row["model"], row["condition"]): row for row in measured if row["metric"] == MAIN}
    head = ["model", "condition", "mean distance"]
    first = next(iter(next(iter(figures.values())).values()))
    recalls = [name for name in first["retrieval"] if name.startswith("R@")]
    colour = [name for name in first.get("colour", {}) if name != "chance dE"]
    head += [*recalls, "MRR t2i (interval)", "MRR i2t", "margin", "modality gap", *colour]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for model, conditions in figures.items():
        for condition, groups in conditions.items():
            interval = main[model, condition]
            cells = [as_plain_markdown(model), condition, f"{groups['distance']['mean']:.4f}"]
            cells += [f"{groups['retrieval'][name]:.4f}" for name in recalls]
            cells.append(f"{interval['value']:.4f} ({interval['low']:.4f} to {interval['high']:.4f})")
            cells.append(f"{groups['retrieval']['MRR i2t']:.4f}")
            cells += [f"{groups['separation'][name]:.4f}" for name in ("margin", "modality_gap")]
            cells += [f"{groups['colour'][name]:.3f}" for name in colour]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _side_by_side(document: Mapping[str, Any]) -> list[str]:
    rows = [
        {"what": what, **row}
        for what in ("caption_against_native", "fused_against_native")
        for row in document[what]
        if row["metric"] == MAIN
    ]
    if not rows:
        return ["No model was measured both on images and on captions."]
    lines = [f"| model | comparison | difference in {MAIN} | interval |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {as_plain_markdown(row['model'])} | {row['what'].replace('_', ' ')} | {row['value']:+.4f} | "
        f"{row['low']:+.4f} to {row['high']:+.4f} |"
        for row in rows
    ]


def _cost_lines(costs: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {as_plain_markdown(model)}: "
        + ", ".join(f"{condition} {seconds:.1f} s" for condition, seconds in by_condition.items())
        for model, by_condition in costs["embedding_seconds"].items()
    ]
    captioning = costs["captioning"]
    if captioning is not None and captioning["captioner"] != "none":
        figures = ", ".join(f"{name} {value}" for name, value in captioning.items() if name != "seconds")
        lines.append(f"- captions: {captioning['seconds']:.1f} s, {figures}")
    return lines


def _summary(document: Mapping[str, Any]) -> dict[str, Any]:
    shown = [row for row in document["measured"] if row["metric"] == MAIN and row["condition"] in MEASURED]
    best = max(shown, key=lambda row: row["value"], default=None)
    if best is None:
        return {"pairs": document["pairs"]}
    return {
        "pairs": document["pairs"],
        "best": f"{best['model']} ({best['condition']})",
        "best_mrr": best["value"],
        "best_mrr_low": best["low"],
        "above_floor": sum(row["above_floor"] for row in document["against_floor"]),
    }
