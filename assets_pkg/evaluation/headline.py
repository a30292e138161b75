"""What a measurement comes to, in two lines for a terminal and a log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.html_page import verdict
from assets_pkg.retrieval.metrics import main_metric
from storage.artifacts import EvalReport

NOT_FOUND = "not found"


def headline(report: EvalReport, settings: EvalSettings) -> list[str]:
    """The verdict with its figures, and the question that gained most: where its answer was and is in the ranking."""
    comparison = report.comparison()
    models = report.results()["metadata"]["models"]
    concluded = verdict(comparison, main_metric("NDCG", settings.k_values), models)
    changes = report.path / "changes.json"
    gained = json.loads(changes.read_text("utf-8"))["gained"] if changes.exists() else []
    return [" ".join([f"{concluded.title}.", *concluded.lines[:1]]), *map(example, gained[:1])]


def example(change: Mapping[str, Any]) -> str:
    """A line about one query of ``changes.json``."""
    before, after = answer_rank(change["before"]), answer_rank(change["after"])
    return f"before and after: {change['text']!r}: answer at rank {before} -> {after}"


def answer_rank(hits: Sequence[Mapping[str, Any]]) -> str:
    """The rank of the first relevant one of the hits shown of a ranking."""
    return next((str(hit["rank"]) for hit in hits if hit["relevant"]), NOT_FOUND)
