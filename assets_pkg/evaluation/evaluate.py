"""A model on an exam: embed, search exactly, score."""

from __future__ import annotations

from dataclasses import replace

from assets_pkg.evaluation.errors import EvaluationError
from assets_pkg.evaluation.metrics import RetrievalScores, score_run
from assets_pkg.prep.search import exact_search
from assets_pkg.profile import EvalSettings
from resources.encoders.base import Encoder
from storage.artifacts import EvalSet
from storage.formats.beir import read_documents, read_qrels, read_queries
from storage.progress import Progress, no_progress

RUN_DEPTH = 100
DECIMALS = 6
"""Of scores in a run: what is measured is what the run file says."""


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
    space, text.

    Args:
        device: the torch device of the search.

    Raises:
        BeirError: a file of the exam cannot be read.
        EvaluationError: a judged query has no text, a judged document is not in the corpus, or nothing is judged.
    """
    qrels = read_qrels(eval_set.beir)
    queries = {each.query_id: each.text for each in read_queries(eval_set.beir) if each.query_id in qrels}
    documents = {each.doc_id: each.joined for each in read_documents(eval_set.beir)}
    _check_complete(eval_set, qrels, queries, documents)
    doc_ids, query_ids = list(documents), list(queries)
    passages = encoder.embed(list(documents.values()), "passage", progress)
    questions = encoder.embed(list(queries.values()), "query", progress)
    depth = max(RUN_DEPTH, *settings.k_values)
    found = exact_search(questions, passages, min(depth, len(doc_ids)), device=device, progress=progress)
    run = {
        query_id: {
            doc_ids[place]: round(float(score), DECIMALS) for place, score in zip(places, scores, strict=True)
        }
        for query_id, places, scores in zip(query_ids, found.ids, found.scores, strict=True)
    }
    return replace(score_run(run, qrels, settings.k_values), eval_set=eval_set.version)


def _check_complete(
    eval_set: EvalSet, qrels: dict[str, dict[str, int]], queries: dict[str, str], documents: dict[str, str]
) -> None:
    """Every judged query and document is there: else the figures would be wrong and nobody would see it."""
    for query_id, judged in qrels.items():
        if query_id not in queries:
            raise EvaluationError(f"{eval_set.beir}: qrels judge query {query_id}, not in queries.jsonl")
        for doc_id, score in judged.items():
            if score > 0 and doc_id not in documents:
                raise EvaluationError(
                    f"{eval_set.beir}: the answer {doc_id} of query {query_id} is not in corpus.jsonl"
                )
