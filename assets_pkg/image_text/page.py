"""The image-text report as one self-contained HTML page, rendered from the report's files and those of the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets_pkg.orchestration.html_page import data_uri, render_page, scale_of
from storage.artifacts import Captions, ImageTextScores
from storage.files import write_atomic

TEMPLATE = Path(__file__).with_name("report.html")
BOUNDS = {"oracle": "ceiling", "constant": "floor", "random": "chance"}
"""Conditions that are no results of a model's own: what each is, in words."""

FIGURES = 6
"""Figures of single models that are embedded."""


def write_page(folder: Path, scores: ImageTextScores, captions: Captions | None) -> None:
    """Write ``report.html`` into the folder of an `ImageTextReport`, from the other files in it and from the scores."""
    document = json.loads((folder / "report.json").read_text("utf-8"))
    costs = json.loads((folder / "costs.json").read_text("utf-8"))
    main = document["main"]
    models = scores.scores()["models"]
    rows = [
        {**row, "bound": BOUNDS.get(row["condition"]), "figures": models[row["model"]][row["condition"]]}
        for row in document["measured"]
        if row["metric"] == main
    ]
    figures = sorted((scores.path / "figs").glob("*.png"))
    page = render_page(
        TEMPLATE,
        title=verdict(document),
        document=document,
        main=main,
        confidence=f"{document['confidence']:.0%}",
        rows=rows,
        scale=scale_of(rows),
        recalls=[
            name for name in rows[0]["figures"]["retrieval"] if name.startswith("R@") and name.endswith("t2i")
        ],
        colours="colour" in rows[0]["figures"],
        against_floor=document["against_floor"],
        floor_scale=scale_of(document["against_floor"]),
        side_by_side=side_by_side(document),
        dimensions=scores.dimensions(),
        captions=None if captions is None else captions.summary(),
        captioner=document["captioner"],
        seconds=costs["embedding_seconds"],
        pairs=document["pairs"],
        samples=with_ranks(scores.samples(), scores.ranks(), document),
        best=_best(document),
        skipped=scores.skipped(),
        pictures={path.stem: data_uri(path) for path in (folder / "mrr.png",) if path.exists()},
        figures={path.stem: data_uri(path) for path in figures[:FIGURES]},
        figures_left=len(figures[FIGURES:]),
    )
    write_atomic(folder / "report.html", page)


def verdict(document: Mapping[str, Any]) -> str:
    """The conclusion of a report in one sentence."""
    best = _best(document)
    if best is None:
        return "No model was measured on images or captions"
    above = [row for row in document["against_floor"] if row["above_floor"]]
    if not above:
        return f"No model finds images better than a constant caption ({document['main']})"
    return f"{best['model']} on {WORDS[best['condition']]} is best: {document['main']} {best['value']:.3f}"


WORDS = {"native": "images", "caption": "captions", "fused": "images with captions"}
"""What a model is given for an image, in words."""


def _best(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The best row of the main metric among the models' own conditions."""
    shown = [
        row for row in document["measured"] if row["metric"] == document["main"] and row["condition"] in WORDS
    ]
    return max(shown, key=lambda row: row["value"], default=None)


def side_by_side(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paired differences of captions to images in the main metric."""
    kinds = {"caption_against_native": "captions - images", "fused_against_native": "both - images"}
    return [
        {"what": what, **row}
        for kind, what in kinds.items()
        for row in document[kind]
        if row["metric"] == document["main"]
    ]


def with_ranks(
    samples: Sequence[Mapping[str, Any]], ranks: Mapping[str, Any], document: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The samples with the rank of the image for its text, by the best model; of ties the middle."""
    best = _best(document)
    if best is None:
        return [{**sample, "rank": None} for sample in samples]
    found = ranks[best["model"]][best["condition"]]["t2i"]
    return [
        {**sample, "rank": found["greater"][row] + (found["equal"][row] + 1) / 2}
        for sample in samples
        for row in [sample["row"]]
    ]
