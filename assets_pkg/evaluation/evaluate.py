"""Measure a model on an eval set: embed, search exactly, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.retrieval.exact_search import BlockwiseSearch, TopK
from assets_pkg.retrieval.metrics import RetrievalScores, score_run, without_own
from resources.encoders.base import Encoder
from storage.artifacts import EvalSet
from storage.formats.beir import Qrels, count_missing_answers, read_documents, read_qrels, read_queries
from storage.progress import Progress, no_progress
from storage.vectors import truncate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

RUN_DEPTH = 100
DECIMALS = 6
"""Of scores in a run: the metrics are computed from the scores that the run file holds."""

DOCUMENTS_AT_A_TIME = 50_000
"""Texts and vectors held in memory, as in the recipe's evaluation."""


def evaluate_retrieval(
    eval_set: EvalSet,
    encoder: Encoder,
    settings: EvalSettings,
    progress: Progress = no_progress,
    *,
    device: str = "cpu",
) -> RetrievalScores:
    """Retrieve for every judged query of a BEIR folder and compute metrics at ``settings.k_values``.

    The run holds each query's best 100 documents, or as many as the largest k, less the document that has the query's
    own id. Documents are embedded as title, space, text, a block of 50,000 in memory at a time.

    Args:
        device: the torch device of the search.

    Raises:
        BeirError: a file of the eval set cannot be read, or more than 1% of the answers are not in the corpus.
        EvaluationError: a judged query has no text, or two documents have one id.
        RetrievalError: no query has a relevant document.
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
    wanted = max(RUN_DEPTH, *settings.k_values)
    depth = min(wanted + (not queries.keys().isdisjoint(doc_ids)), len(doc_ids))
    searches = {each: BlockwiseSearch(truncate(questions, each), depth, device) for each in dimensions}
    for block in _embedded_blocks(eval_set, encoder, len(doc_ids), progress):
        for each, search in searches.items():
            search.add(truncate(block, each))
    runs = {each: _run(search.found, list(queries), doc_ids, wanted) for each, search in searches.items()}
    return {
        each: replace(score_run(run, qrels, settings.k_values), eval_set=eval_set.version)
        for each, run in runs.items()
    }


def _run(
    found: TopK, query_ids: Sequence[str], doc_ids: Sequence[str], wanted: int
) -> dict[str, dict[str, float]]:
    """Score by query id and document id; the best ``wanted`` of each query, without the document of its own id."""
    ids: list[list[int]] = found.ids.tolist()
    run: dict[str, dict[str, float]] = {}
    for query_id, row, scores in zip(query_ids, ids, found.scores.tolist(), strict=True):
        named = {doc_ids[index]: round(score, DECIMALS) for index, score in zip(row, scores, strict=True)}
        run[query_id] = dict(islice(without_own(query_id, named).items(), wanted))
    return run


def _embedded_blocks(
    eval_set: EvalSet, encoder: Encoder, total: int, progress: Progress
) -> Iterator[Vectors]:
    """Vectors of every block of the corpus."""
    documents = read_documents(eval_set.beir)
    done = 0
    while texts := [each.joined for each in islice(documents, DOCUMENTS_AT_A_TIME)]:
        yield encoder.embed(texts, "passage", _offset(progress, done, total))
        done += len(texts)


def _offset(progress: Progress, before: int, altogether: int) -> Progress:
    """The progress of one block as a part of the whole."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(before + done, altogether, unit, **figures)

    return report


def _check_complete(eval_set: EvalSet, qrels: Qrels, queries: dict[str, str], doc_ids: Sequence[str]) -> None:
    """Check that every judged query and document exists, once; otherwise the metrics would be silently wrong."""
    known = set(doc_ids)
    if len(known) < len(doc_ids):
        raise EvaluationError(f"{eval_set.beir / 'corpus.jsonl'}: two documents have the same _id")
    for query_id in qrels:
        if query_id not in queries:
            raise EvaluationError(f"{eval_set.beir}: qrels judge query {query_id}, not in queries.jsonl")
    count_missing_answers(eval_set.beir, qrels, known)
