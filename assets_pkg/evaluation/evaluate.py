"""A model on an eval set: embed, search exactly, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.retrieval.exact_search import TopK, exact_search, merge
from assets_pkg.retrieval.metrics import RetrievalScores, score_run
from resources.encoders.base import Encoder
from storage.artifacts import EvalSet
from storage.formats.beir import Qrels, read_documents, read_qrels, read_queries
from storage.progress import Progress, no_progress
from storage.vectors import truncate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

RUN_DEPTH = 100
DECIMALS = 6
"""Of scores in a run: what is measured is what the run file says."""

DOCUMENTS_AT_A_TIME = 50_000
"""Texts and vectors in memory, as in the recipe's evaluation."""


def evaluate_retrieval(
    eval_set: EvalSet,
    encoder: Encoder,
    settings: EvalSettings,
    progress: Progress = no_progress,
    *,
    device: str = "cpu",
) -> RetrievalScores:
    """Retrieve for every judged query of a BEIR folder and measure at ``settings.k_values``.

    The run holds each query's best 100 documents, or as many as the largest k. Documents are embedded as title,
    space, text, a block of 50,000 in memory at a time.

    Args:
        device: the torch device of the search.

    Raises:
        BeirError: a file of the eval set cannot be read.
        EvaluationError: a judged query has no text, a judged document is not in the corpus, two documents have
            one id, or nothing is judged.
    """
    full = encoder.dimensions
    return evaluate_dimensions(eval_set, encoder, settings, [full], progress, device=device)[full]


def evaluate_dimensions(
    eval_set: EvalSet,
    encoder: Encoder,
    settings: EvalSettings,
    dimensions: Sequence[int],
    progress: Progress = no_progress,
    *,
    device: str = "cpu",
) -> dict[int, RetrievalScores]:
    """:func:`evaluate_retrieval` with vectors cut to their first d values, for every d of ``dimensions``; each
    text is embedded once.

    Raises:
        EvaluationError: also when the model's vectors are shorter than one of ``dimensions``.
    """
    if max(dimensions) > encoder.dimensions:
        raise EvaluationError(
            f"eval_dimensions (with matryoshka_dims) = {sorted(dimensions)}: the model's vectors have "
            f"{encoder.dimensions} dimensions"
        )
    qrels = read_qrels(eval_set.beir)
    queries = {each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels}
    doc_ids = [each.doc_id for each in read_documents(eval_set.beir)]
    _check_complete(eval_set, qrels, queries, doc_ids)
    questions = encoder.embed(list(queries.values()), "query", progress)
    depth = min(max(RUN_DEPTH, *settings.k_values), len(doc_ids))
    best = {each: _Best(truncate(questions, each), depth, device) for each in dimensions}
    for start, block in _embedded_blocks(eval_set, encoder, len(doc_ids), progress):
        for each, found in best.items():
            found.look_through(start, truncate(block, each))
    return {
        each: replace(
            score_run(found.run(list(queries), doc_ids), qrels, settings.k_values), eval_set=eval_set.version
        )
        for each, found in best.items()
    }


class _Best:
    """The best documents of every query among those seen so far, higher scores first, then earlier documents."""

    def __init__(self, questions: Vectors, depth: int, device: str):
        self.questions = questions
        self.depth = depth
        self.device = device
        nothing = np.empty((len(questions), 0))
        self.found = TopK(nothing.astype(np.int64), nothing, np.zeros(len(questions), dtype=np.int64))

    def look_through(self, start: int, passages: Vectors) -> None:
        """Take in the documents from place ``start`` on."""
        depth = min(self.depth, len(passages))
        found = exact_search(self.questions, passages, depth, device=self.device)
        self.found = merge([(0, self.found), (start, found)], self.depth)

    def run(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        ids: list[list[int]] = self.found.ids.tolist()
        scored = zip(query_ids, ids, self.found.scores.tolist(), strict=True)
        return {
            query_id: {
                doc_ids[place]: round(score, DECIMALS) for place, score in zip(places, scores, strict=True)
            }
            for query_id, places, scores in scored
        }


def _embedded_blocks(
    eval_set: EvalSet, encoder: Encoder, total: int, progress: Progress
) -> Iterator[tuple[int, Vectors]]:
    """(place of the first document, vectors) of every block of the corpus."""
    documents = read_documents(eval_set.beir)
    start = 0
    while texts := [each.joined for each in islice(documents, DOCUMENTS_AT_A_TIME)]:
        yield start, encoder.embed(texts, "passage", _later(progress, start, total))
        start += len(texts)


def _later(progress: Progress, before: int, altogether: int) -> Progress:
    """Progress of one block as part of the whole."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(before + done, altogether, unit, **figures)

    return report


def _check_complete(eval_set: EvalSet, qrels: Qrels, queries: dict[str, str], doc_ids: Sequence[str]) -> None:
    """Every judged query and document is there, once: else the figures would be wrong and nobody would see it."""
    known = set(doc_ids)
    if len(known) < len(doc_ids):
        raise EvaluationError(f"{eval_set.beir / 'corpus.jsonl'}: two documents have the same _id")
    for query_id, judged in qrels.items():
        if query_id not in queries:
            raise EvaluationError(f"{eval_set.beir}: qrels judge query {query_id}, not in queries.jsonl")
        for doc_id, score in judged.items():
            if score > 0 and doc_id not in known:
                raise EvaluationError(
                    f"{eval_set.beir}: the answer {doc_id} of query {query_id} is not in corpus.jsonl"
                )
