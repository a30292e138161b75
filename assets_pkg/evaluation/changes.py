"""The queries that gained and lost most, with what was found before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assets_pkg.evaluation.metrics import RetrievalScores, ranked
from storage.artifacts import EvalSet
from storage.formats.beir import Qrels, read_documents

MOST = 10
"""Queries shown on either side."""

SHOWN = 3
"""Passages shown of each model."""

LONGEST_TEXT = 300


@dataclass(frozen=True)
class Hit:
    """One passage in a ranking; ``relevant`` by the exam's judgements."""

    doc_id: str
    rank: int
    relevant: bool
    text: str


@dataclass(frozen=True)
class Change:
    """One query. ``before`` and ``after``: the best passages of base and fine-tuned model, followed by the best
    relevant one if it is further down."""

    query_id: str
    text: str
    base: float
    finetuned: float
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]


def largest_changes(
    base: RetrievalScores,
    finetuned: RetrievalScores,
    metric: str,
    eval_set: EvalSet,
    texts: Mapping[str, str],
    qrels: Qrels,
) -> dict[str, list[Change]]:
    """``gained`` and ``lost``: at most ten queries each, the largest change first.

    Args:
        texts: of queries, by id.
    """
    gains = dict(zip(base.query_ids, finetuned.per_query[metric] - base.per_query[metric], strict=True))
    sides = {
        "gained": sorted((q for q in gains if gains[q] > 0), key=lambda q: (-gains[q], q))[:MOST],
        "lost": sorted((q for q in gains if gains[q] < 0), key=lambda q: (gains[q], q))[:MOST],
    }
    shown = {
        (query, number): _shown(model.run.get(query, {}), qrels[query])
        for side in sides.values()
        for query in side
        for number, model in enumerate((base, finetuned))
    }
    passages = _passages(eval_set, {doc_id for places in shown.values() for doc_id, _ in places})
    row = {query: number for number, query in enumerate(base.query_ids)}

    def hits(query: str, number: int) -> tuple[Hit, ...]:
        return tuple(
            Hit(doc_id, rank, qrels[query].get(doc_id, 0) > 0, passages[doc_id])
            for doc_id, rank in shown[query, number]
        )

    return {
        side: [
            Change(
                query,
                texts[query],
                float(base.per_query[metric][row[query]]),
                float(finetuned.per_query[metric][row[query]]),
                hits(query, 0),
                hits(query, 1),
            )
            for query in chosen
        ]
        for side, chosen in sides.items()
    }


def _shown(found: Mapping[str, float], judged: Mapping[str, int]) -> list[tuple[str, int]]:
    """(document, rank) of the first few, and of the first relevant one."""
    order = [(doc_id, rank) for rank, (doc_id, _) in enumerate(ranked(found), start=1)]
    answers: Sequence[tuple[str, int]] = [place for place in order if judged.get(place[0], 0) > 0]
    return order[:SHOWN] + [place for place in answers[:1] if place[1] > SHOWN]


def _passages(eval_set: EvalSet, wanted: set[str]) -> dict[str, str]:
    texts = ((each.doc_id, each.joined) for each in read_documents(eval_set.beir) if each.doc_id in wanted)
    return {doc_id: _cut(text) for doc_id, text in texts}


def _cut(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= LONGEST_TEXT else one_line[: LONGEST_TEXT - 3] + "..."
