"""The report on mined negatives: figures, a histogram of scores, and example questions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.config.sections.prep import MiningSettings
from storage.formats.retriever_json import PassageRef, RetrieverExample

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 10
SHOWN_CHARS = 200
BINS = 40


def describe_mining(examples: Sequence[RetrieverExample], texts: Mapping[str, str]) -> dict[str, Any]:
    """Figures of the mined questions. ``texts``: passage text by id.

    ``histogram``: counts of positive and negative scores between ``edges``; None without scores.
    ``examples``: questions evenly spaced, with their lowest positive and hardest negative.
    """
    counts = [len(example.negatives) for example in examples]
    positives = _scores(each for example in examples for each in example.positives)
    negatives = _scores(each for example in examples for each in example.negatives)
    step = max(1, len(examples) // SHOWN)
    return {
        "questions": len(examples),
        "passages": len(texts),
        "negatives": sum(counts),
        "median_negatives": statistics.median(counts),
        "questions_without_negatives": sum(count == 0 for count in counts),
        "mean_positive_score": _mean(positives),
        "mean_negative_score": _mean(negatives),
        "histogram": _histogram(positives, negatives) if positives or negatives else None,
        "examples": [_shown(example, texts) for example in examples[::step][:SHOWN]],
    }


def describe_margin(
    above: NDArray[np.int64], short: NDArray[np.bool_], passages: int, settings: MiningSettings
) -> dict[str, Any]:
    """The effect of the margin.

    Args:
        above: number of passages above each question's ceiling, int64 [n].
        short: questions with too few negatives, bool [n].
        passages: number of passages searched.
        settings: the margin and ``too_few_negatives``.
    """
    fewer = int(short.sum())
    return {
        "questions_with_fewer_negatives": fewer,
        "questions_filled": fewer if settings.too_few_negatives == "fill" else 0,
        "questions_dropped": fewer if settings.too_few_negatives == "drop" else 0,
        "questions_with_passages_over_the_margin": round(float((above > 0).mean()), 4),
        "mean_passages_over_the_margin": round(float(above.mean()), 4),
        "share_excluded_by_the_margin": round(float(above.mean()) / passages, 6),
    }


def draw_scores(histogram: Mapping[str, Sequence[float]], path: Path) -> None:
    """The histogram of :func:`describe_mining` as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = list(histogram["edges"])
    for name, color in (("positives", "tab:green"), ("negatives", "tab:red")):
        axes.stairs(histogram[name], edges, fill=True, alpha=0.5, color=color, label=name)
    axes.set_xlabel("similarity to the question")
    axes.set_ylabel("passages")
    axes.legend()
    figure.savefig(path, dpi=110)


def _histogram(positives: Sequence[float], negatives: Sequence[float]) -> dict[str, list[float]]:
    both = [*positives, *negatives]
    edges = np.linspace(np.floor(10 * min(both)) / 10, np.ceil(10 * max(both)) / 10 + 1e-9, BINS + 1)
    return {
        "edges": [round(float(edge), 4) for edge in edges],
        "positives": np.histogram(positives, edges)[0].tolist(),
        "negatives": np.histogram(negatives, edges)[0].tolist(),
    }


def _shown(example: RetrieverExample, texts: Mapping[str, str]) -> dict[str, Any]:
    lowest = min(example.positives, key=lambda each: 0.0 if each.score is None else each.score)
    hardest = example.negatives[0] if example.negatives else None
    return {
        "question": example.question,
        "positive": texts[lowest.passage_id][:SHOWN_CHARS],
        "positive_score": lowest.score,
        "hardest_negative": texts[hardest.passage_id][:SHOWN_CHARS] if hardest else "(none left)",
        "negative_score": hardest.score if hardest else None,
    }


def _scores(references: Iterable[PassageRef]) -> list[float]:
    return [each.score for each in references if each.score is not None]


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None
