"""Which search method answers best with a model: measured on one half of the eval set, and checked on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.config.sections.evaluation import EvalSettings
from assets_pkg.config.sections.search import SearchSettings
from assets_pkg.evaluation.compare import Difference, compare
from assets_pkg.reindex.comparison import measure_methods
from assets_pkg.reindex.gains import METRIC, write_gains
from assets_pkg.retrieval.metrics import RetrievalScores
from assets_pkg.retrieval.search_method import DENSE, SearchMethod
from resources.encoders.base import Encoder
from storage.artifacts import Checkpoint, EvalSet
from storage.digests import digest_text
from storage.files import write_json
from storage.formats.beir import read_queries
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANDIDATES = tuple(
    map(SearchMethod.parse, ("dense", "convex:0.5", "rrf", "convex:0.7", "convex:0.3", "bm25"))
)
"""The simplest and the one that is best in general first: of methods that do equally well, the first is taken."""

FEWEST_QUESTIONS = 20
"""In each half; with fewer, search stays dense."""


@dataclass(frozen=True)
class Choice:
    """The chosen method, why, and what it gains over dense search on the questions that it was not chosen on."""

    method: SearchMethod
    reason: str
    gain: Difference | None


def choose(scores: Mapping[SearchMethod, RetrievalScores], settings: EvalSettings) -> Choice:
    """The first of :data:`CANDIDATES` that is not significantly worse than the best, on one half of the questions.
    Dense search if the other half shows that it loses.

    Args:
        scores: of every candidate, on the same questions.
        settings: number of resamples, confidence and seed of the paired bootstrap.
    """
    queries = scores[DENSE].query_ids
    half = first_half(queries)
    if min(half.sum(), (~half).sum()) < FEWEST_QUESTIONS:
        few = f"only {len(queries)} questions: at least {FEWEST_QUESTIONS} in each half are needed to choose"
        return Choice(DENSE, few, None)
    chosen_on = {method: _part(each, half) for method, each in scores.items()}
    best = max(CANDIDATES, key=lambda method: chosen_on[method].means()[METRIC])
    chosen = next(
        method
        for method in CANDIDATES
        if method == best or compare(chosen_on[method], chosen_on[best], settings)[METRIC].low <= 0
    )
    if chosen == DENSE:
        return Choice(DENSE, "no other method is significantly better", None)
    gain = compare(_part(scores[DENSE], ~half), _part(scores[chosen], ~half), settings)[METRIC]
    if gain.high < 0:
        return Choice(DENSE, f"{chosen} was best on one half of the questions and loses on the other", gain)
    return Choice(chosen, "best on one half of the questions; the gain is that on the other half", gain)


def first_half(queries: Sequence[str]) -> NDArray[np.bool_]:
    """The questions that the method is chosen on: bool [n]."""
    return np.array([int(digest_text(query), 16) % 2 == 0 for query in queries])


def choose_search_method(
    eval_set: EvalSet,
    model: Checkpoint,
    encoder: Encoder,
    base: Encoder | None,
    search: SearchSettings,
    settings: EvalSettings,
    folder: Path,
    progress: Progress = no_progress,
) -> None:
    """Measure every method with ``model`` on ``eval_set``, and write ``search_method.json`` into ``folder``.

    ``method``: what search uses (``search.method``, or the choice if that is ``auto``), with ``reason`` and ``gain``
    over dense search (as :class:`~assets_pkg.evaluation.compare.Difference`, null if it was not measured);
    ``measured``: the mean metrics of every method over all questions; ``model_digest``, ``questions``. Beside it what
    each part gains (:func:`~assets_pkg.reindex.gains.write_gains`), on the questions that the method was not chosen on.

    Args:
        base: of the base model; None if ``model`` is it.
    """
    scores = measure_methods(eval_set, encoder, CANDIDATES, progress)
    if search.method == "auto":
        choice = choose(scores, settings)
    else:
        choice = Choice(SearchMethod.parse(search.method), "set by search.method", None)
    document: dict[str, Any] = {
        "schema_version": 1,
        "method": str(choice.method),
        "reason": choice.reason,
        "gain": asdict(choice.gain) if choice.gain else None,
        "measured": {str(method): each.means() for method, each in scores.items()},
        "model_digest": model.version,
        "questions": len(scores[DENSE].query_ids),
    }
    write_json(folder / "search_method.json", document)
    parts = [("base, dense" if base is None else "fine-tuned, dense", scores[DENSE])]
    if base is not None:
        parts.insert(0, ("base, dense", measure_methods(eval_set, base, [DENSE])[DENSE]))
    if choice.method != DENSE:
        parts.append((f"search: {choice.method}", scores[choice.method]))
    if choice.gain is not None:
        other = ~first_half(scores[DENSE].query_ids)
        parts = [(name, _part(each, other)) for name, each in parts]
    texts = {each.query_id: each.text for each in read_queries(eval_set.beir)}
    write_gains(folder, parts, texts, settings)


def _part(scores: RetrievalScores, chosen: np.ndarray) -> RetrievalScores:
    """The scores of some queries: bool [n]."""
    queries = tuple(query for query, kept in zip(scores.query_ids, chosen, strict=True) if kept)
    per_query = {name: values[chosen] for name, values in scores.per_query.items()}
    return RetrievalScores(queries, per_query, scores.run, scores.eval_set)
