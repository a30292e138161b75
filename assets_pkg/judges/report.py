"""The ranking as a Markdown page, a table and two figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from assets_pkg.judges.published import Placed
from assets_pkg.judges.ranking import Agreement, RankedCaptioner
from assets_pkg.judges.truncation import explain_all, from_document
from storage.artifacts import JudgeScores

NEAR_REDUNDANT = 0.95
DARK = 0.6
"""From this correlation on, white letters are readable on the colours of the matrix, and black ones are not."""


def report_text(
    ranking: Sequence[RankedCaptioner],
    agreement: Agreement,
    used: Sequence[str],
    made: JudgeScores,
    confidence: float,
    beside: Sequence[Placed] = (),
) -> str:
    """A Markdown page: the ranking, also beside published captioners, the judges used and not used, what was left out
    or truncated, and the agreement of the judges."""
    rows = shown_ranking([asdict(row) for row in ranking], confidence)
    clips = len(made.scores()["clips"])
    lines = [
        "# Caption ranking",
        "",
        f"{len(ranking)} captioners, {clips} clips. Judges: {', '.join(used)}. Borda points over the "
        "judges' mean HM-CF; intervals from resampling the clips.",
        "",
        *_table(rows),
        *(f"- {tie}" for tie in explain_ties([asdict(row) for row in ranking])),
    ]
    if beside:
        lines += ["", "## Beside published captioners", "", *_table(shown_placed(beside))]
    lines += ["", "## Judges not used", ""]
    lines += [f"- {name}: {reason}" for name, reason in made.skipped().items()] or [
        "None: all judges were available."
    ]
    lines += ["", "## What was not read", ""]
    lines += [f"- {line}" for line in unread(made, used)] or ["Nothing: every caption was read wholly."]
    lines += ["", "## Agreement of the judges", ""]
    lines += _agreement_lines(agreement)
    return "\n".join(lines) + "\n"


def unread(made: JudgeScores, judges: Sequence[str]) -> list[str]:
    """What was left out of the files, and what each judge truncated, in sentences."""
    truncated = explain_all(from_document(made.truncated()), dict.fromkeys(judges))
    return [*made.notes(), *(f"{judge} {text}" for judge, text in truncated.items())]


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return [
        f"| {' | '.join(rows[0])} |",
        "|" + " --- |" * len(rows[0]),
        *(f"| {' | '.join(row.values())} |" for row in rows),
    ]


def explain_ties(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    """For captioners with equal Borda points, in the ranking's order: a sentence that says what decided."""
    return [
        f"{better['captioner']} and {worse['captioner']} have equal Borda points ({better['points']}): the mean HM-CF "
        f"over the judges decides ({better['mean']:.6f} against {worse['mean']:.6f})"
        for better, worse in pairwise(ranking)
        if better["points"] == worse["points"]
    ]


def shown_placed(placed: Iterable[Placed]) -> list[dict[str, str]]:
    """The ranking beside published captioners as text, by column heading."""
    return [
        {
            "rank": str(row.rank),
            "captioner": row.captioner,
            "from": "judged here" if row.own else "published",
            "Borda": str(row.points),
            "mean HM-CF": f"{row.mean:.4f}",
        }
        for row in placed
    ]


def shown_ranking(ranking: Iterable[Mapping[str, Any]], confidence: float) -> list[dict[str, str]]:
    """The rows of ``ranking.json`` as text, by column heading."""
    interval = f"{confidence:.0%} interval"
    return [
        {
            "rank": str(row["rank"]),
            "captioner": row["captioner"],
            "Borda": str(row["points"]),
            "mean HM-CF": f"{row['mean']:.4f}",
            f"mean, {interval}": f"{row['mean_low']:.4f} to {row['mean_high']:.4f}",
            f"rank, {interval}": f"{row['rank_low']:g} to {row['rank_high']:g}",
            "std over judges": "" if row["std"] is None else f"{row['std']:.4f}",
        }
        for row in ranking
    ]


def _agreement_lines(agreement: Agreement) -> list[str]:
    if not agreement.without:
        return ["One judge: agreement cannot be measured, and the ranking is that of the judge."]
    lines = ["| judges | Spearman |", "| --- | --- |"]
    lines += [f"| {pair} | {value:.3f} |" for pair, value in agreement.spearman.items()]
    if agreement.spearman and min(agreement.spearman.values()) > NEAR_REDUNDANT:
        lines += ["", f"All pairs correlate above {NEAR_REDUNDANT}: more judges of this kind add little."]
    lines += [
        "",
        "| without | Kendall tau with all | first place | largest move |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {judge} | {change['kendall_tau']:.3f} | {change['first']} | {change['largest_move']} |"
        for judge, change in agreement.without.items()
    ]
    return lines


def draw_ranking(path: Path, ranking: Sequence[RankedCaptioner]) -> None:
    """Draw the mean HM-CF of every captioner with its interval, the best at the top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.35 * len(ranking)), layout="constrained")
    axes = figure.subplots()
    positions = list(range(len(ranking), 0, -1))
    means = [row.mean for row in ranking]
    below = [max(0.0, row.mean - row.mean_low) for row in ranking]
    above = [max(0.0, row.mean_high - row.mean) for row in ranking]
    axes.errorbar(means, positions, xerr=[below, above], fmt="o", capsize=3)
    axes.set_yticks(positions, [f"{row.captioner} ({row.points})" for row in ranking])
    axes.set_xlabel("mean HM-CF over judges, with interval over clips (Borda points in brackets)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_agreement(path: Path, judges: Sequence[str], spearman: Mapping[str, float]) -> None:
    """Draw the matrix of the judges' rank correlations."""
    from matplotlib.figure import Figure

    grid = [[1.0 if a == b else _correlation(a, b, spearman) for b in judges] for a in judges]
    size = 3.2 + 0.6 * len(judges)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(grid, vmin=-1, vmax=1, cmap="RdBu")
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            # Both ends of the scale are dark.
            colour = "white" if abs(value) > DARK else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="-1: opposite orders, 1: the same order")
    axes.set_xticks(range(len(judges)), judges, rotation=45, ha="right")
    axes.set_yticks(range(len(judges)), judges)
    axes.set_title("Spearman correlation of the judges' orders")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _correlation(a: str, b: str, spearman: Mapping[str, float]) -> float:
    return spearman.get(f"{a} ~ {b}", spearman.get(f"{b} ~ {a}", 0.0))
