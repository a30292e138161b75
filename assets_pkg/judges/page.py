"""The ranking as one self-contained HTML page, rendered from the ranking's files and those of the scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from assets_pkg.judges.truncation import explain_all, from_document
from assets_pkg.orchestration.html_page import data_uri, render_page, scale_of
from storage.artifacts import JudgeScores
from storage.files import write_atomic

TEMPLATE = Path(__file__).with_name("report.html")
PICTURES = {"ranking.png": "Mean HM-CF of every captioner", "agreement.png": "Agreement of the judges"}
LONGEST_TEXT = 700
"""Characters shown of a caption."""

SHOWN_CAPTIONERS = 3
"""Captioners whose captions are shown: the first, one in the middle, the last."""


def write_page(folder: Path, made: JudgeScores) -> None:
    """Write ``report.html`` into the folder of a `JudgeRanking`, from the other files in it and from the scores."""
    document = json.loads((folder / "ranking.json").read_text("utf-8"))
    judges, rows = document["judges"], document["ranking"]
    scores = made.scores()["scores"]
    for row in rows:
        row["low"], row["high"] = row["mean_low"], row["mean_high"]
    page = render_page(
        TEMPLATE,
        title=verdict(rows, len(judges)),
        document=document,
        beside=document.get("beside_published", []),
        rows=rows,
        scale=scale_of(rows, zero=False),
        judges=judges,
        confidence=f"{document['confidence']:.0%}",
        table=judge_table(document["means"], [row["captioner"] for row in rows]),
        floors=made.floors(),
        matrix=agreement_matrix(judges, document["spearman"]),
        samples=samples(made, judges, [row["captioner"] for row in rows], scores),
        costs=made.costs(),
        skipped=made.skipped(),
        notes=made.notes(),
        truncated=explain_all(from_document(made.truncated()), dict.fromkeys(judges)),
        pictures={title: data_uri(folder / name) for name, title in PICTURES.items()},
    )
    write_atomic(folder / "report.html", page)


def verdict(rows: Sequence[Mapping[str, Any]], judges: int) -> str:
    """The conclusion of a ranking in one sentence."""
    first = rows[0]
    by = f"{judges} judges" if judges > 1 else "one judge"
    if len(rows) < 2:
        return f"{first['captioner']} alone was judged, by {by}"
    if first["rank_high"] > 1:
        return f"{first['captioner']} is first by {by}, but not surely: its rank is 1 to {first['rank_high']:.2g}"
    return f"{first['captioner']} is first by {by}"


@dataclass(frozen=True)
class Cell:
    """A figure and its place between the least (0) and the greatest (1) of its column."""

    value: float
    share: float


def judge_table(
    means: Mapping[str, Mapping[str, Mapping[str, float]]], captioners: Sequence[str]
) -> dict[str, list[Cell]]:
    """Mean hm_cf by captioner, a cell for each judge, shaded within the judge's column: their scales differ."""
    columns: list[list[Cell]] = []
    for named in means.values():
        values = [named[name]["hm_cf"] for name in captioners]
        low, spread = min(values), max(values) - min(values)
        columns.append([Cell(value, (value - low) / spread if spread else 0.5) for value in values])
    return {name: [column[row] for column in columns] for row, name in enumerate(captioners)}


def agreement_matrix(judges: Sequence[str], spearman: Mapping[str, float]) -> dict[str, list[float]]:
    """Rank correlations from -1 to 1, a row for each judge."""
    both = {frozenset(pair.split(" ~ ")): value for pair, value in spearman.items()}
    return {
        one: [1.0 if one == other else both[frozenset((one, other))] for other in judges] for one in judges
    }


@dataclass(frozen=True)
class SampleCaption:
    """One caption of a clip, with its hm_cf as the mean over the judges."""

    captioner: str
    text: str
    score: float


@dataclass(frozen=True)
class Sample:
    """One clip: ``what`` says why it is shown."""

    what: str
    clip: str
    reference: str
    captions: list[SampleCaption]


def samples(
    made: JudgeScores, judges: Sequence[str], captioners: Sequence[str], scores: Mapping[str, Any]
) -> list[Sample]:
    """The clips that were described best, usually and worst, with captions of some captioners."""
    shown = list(dict.fromkeys([captioners[0], captioners[len(captioners) // 2], captioners[-1]]))
    texts = {name: made.texts(judges[0], name) for name in shown[:SHOWN_CAPTIONERS]}
    clips: list[str] = made.scores()["clips"]

    def score(names: Iterable[str], clip: str) -> float:
        return fmean(scores[judge][name][clip]["hm_cf"] for judge in judges for name in names)

    order = sorted(clips, key=lambda clip: -score(captioners, clip))
    chosen = {
        order[0]: "described best",
        order[len(order) // 2]: "in the middle",
        order[-1]: "described worst",
    }
    return [
        Sample(
            what,
            clip,
            _short(texts[shown[0]][clip]["reference"]),
            [
                SampleCaption(name, _short(texts[name][clip]["candidate"]), score([name], clip))
                for name in texts
            ],
        )
        for clip, what in chosen.items()
    ]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
