"""What each part of a search gains: the base model's vectors, the promoted model's, and the search method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.compare import compare
from assets_pkg.retrieval.metrics import RetrievalScores
from storage.files import write_json

METRIC = "NDCG@10"
SHOWN_QUESTIONS = 5
"""Of those that a part won most on, and of those that it lost most on."""

Part = tuple[str, RetrievalScores]


def write_gains(
    folder: Path, parts: Sequence[Part], texts: Mapping[str, str], settings: EvalSettings
) -> None:
    """Write ``gains.json`` and ``gains.png`` into ``folder``.

    ``gains.json``: ``rows``, one a part, with its mean nDCG@10 and Recall@10, and from the second on the gain over the
    first (``gain``, ``low``, ``high``: nDCG@10 and its interval) and over the row above (``won``, ``lost``: questions);
    ``questions``: for every part after the first the questions with the largest change, each ``{part, question,
    before, after}``; ``count``: of questions.

    Args:
        parts: name and scores, on the same questions, the base's first.
        texts: of the questions, by id.
        settings: of the paired bootstrap.
    """
    rows = [_row(number, parts, settings) for number in range(len(parts))]
    changes = [change for before, after in pairwise(parts) for change in _changes(before, after, texts)]
    count = len(parts[0][1].query_ids)
    write_json(folder / "gains.json", {"rows": rows, "questions": changes, "count": count})
    _draw(rows, count, settings.confidence, folder / "gains.png")


def _row(number: int, parts: Sequence[Part], settings: EvalSettings) -> dict[str, Any]:
    name, scores = parts[number]
    means = scores.means()
    row: dict[str, Any] = {"search": name, METRIC: means[METRIC], "Recall@10": means["Recall@10"]}
    if number == 0:
        return row
    over_base = compare(parts[0][1], scores, settings)[METRIC]
    above = compare(parts[number - 1][1], scores, settings)[METRIC]
    gained = {"gain": over_base.delta, "low": over_base.low, "high": over_base.high}
    return row | gained | {"won": above.wins, "lost": above.losses}


def _changes(before: Part, after: Part, texts: Mapping[str, str]) -> list[dict[str, Any]]:
    old, new = before[1].per_query[METRIC], after[1].per_query[METRIC]
    order = np.argsort(old - new, kind="stable").tolist()
    won = [row for row in order if new[row] > old[row]][:SHOWN_QUESTIONS]
    lost = [row for row in reversed(order) if new[row] < old[row]][:SHOWN_QUESTIONS]
    return [
        {
            "part": after[0],
            "question": texts[after[1].query_ids[row]],
            "before": float(old[row]),
            "after": float(new[row]),
        }
        for row in (*won, *lost)
    ]


def _draw(rows: Sequence[Mapping[str, Any]], questions: int, confidence: float, path: Path) -> None:
    """Mean nDCG@10 of every part, with the interval of its gain over the base."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = list(reversed(range(len(rows))))
    values = [row[METRIC] for row in rows]
    around = [
        (row.get("gain", 0) - row.get("low", 0), row.get("high", 0) - row.get("gain", 0)) for row in rows
    ]
    bars = axes.barh(
        places,
        values,
        xerr=list(zip(*around, strict=True)),
        capsize=4,
        color=["tab:gray", *["tab:blue"] * len(rows)],
    )
    labels = [f"{row[METRIC]:.3f}" + (f" ({row['gain']:+.3f})" if "gain" in row else "") for row in rows]
    axes.bar_label(bars, labels, padding=6, fontsize=9)
    axes.set_yticks(places, [str(row["search"]) for row in rows])
    axes.set_xlim(0, 1.3 * max(row.get("high", 0) - row.get("gain", 0) + row[METRIC] for row in rows) or 1)
    axes.set_xlabel(
        f"{METRIC} on {questions} questions; whiskers: {confidence:.0%} interval of the gain over the base",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
