"""Where the gain is: the same comparison on parts of the exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assets_pkg.evaluation.compare import Difference, compare
from assets_pkg.evaluation.metrics import RetrievalScores
from assets_pkg.evaluation.settings import EvalSettings
from storage.formats.beir import BeirQuery

KINDS = {
    "query type": "query_type",
    "reasoning type": "reasoning_type",
    "hops": "hop_count",
    "document": "file_name",
}
"""How the exam is cut, and the field of a query's metadata that says it."""

FEWEST_QUERIES = 5
MOST_SLICES = 20
"""Of one kind: those with the most queries."""


@dataclass(frozen=True)
class Slice:
    """The queries for which ``kind`` is ``value``, and the difference on ``metric`` among them."""

    kind: str
    value: str
    queries: int
    metric: str
    difference: Difference


def compare_slices(
    base: RetrievalScores,
    finetuned: RetrievalScores,
    queries: Mapping[str, BeirQuery],
    metrics: Sequence[str],
    settings: EvalSettings,
) -> list[Slice]:
    """The difference of every metric on every part of the exam that has at least five queries.

    Exams whose queries lack the fields have no parts. A kind with one part only, the whole exam, is left out.
    """
    found: list[Slice] = []
    for kind, field in KINDS.items():
        parts = _parts(base.query_ids, queries, field)
        if len(parts) < 2:
            continue
        largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:MOST_SLICES]
        for value in (value for value in largest if len(parts[value]) >= FEWEST_QUERIES):
            rows = parts[value]
            differences = compare(_part(base, rows, metrics), _part(finetuned, rows, metrics), settings)
            found += [Slice(kind, value, len(rows), name, each) for name, each in differences.items()]
    return found


def _parts(query_ids: Sequence[str], queries: Mapping[str, BeirQuery], field: str) -> dict[str, list[int]]:
    parts: dict[str, list[int]] = {}
    for row, query_id in enumerate(query_ids):
        value = queries[query_id].metadata.get(field)
        if value is not None:
            parts.setdefault(_text(value), []).append(row)
    return parts


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _part(scores: RetrievalScores, rows: Sequence[int], metrics: Sequence[str]) -> RetrievalScores:
    return RetrievalScores(
        tuple(scores.query_ids[row] for row in rows),
        {name: scores.per_query[name][list(rows)] for name in metrics},
        {},
    )
