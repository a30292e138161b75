"""Which search method answers best with a model: chosen on the whole eval set, its gain cross-validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

FEWEST_QUESTIONS = 40
"""With fewer, search stays dense."""

FOLDS = 5
"""Of the cross-validation. Of these parts of the questions each is answered by the method that the others choose."""


@dataclass(frozen=True)
class Choice:
    """The chosen method and why.

    ``gain``: what choosing so gains over dense search on questions that nothing was chosen on. ``searched``: the scores
    that it is the gain of. Both are None where no other method was significantly better, or none was to be chosen.
    """

    method: SearchMethod
    reason: str
    gain: Difference | None = None
    searched: RetrievalScores | None = None


def choose(scores: Mapping[SearchMethod, RetrievalScores], settings: EvalSettings) -> Choice:
    """The first of :data:`CANDIDATES` that is not significantly worse than the best. Dense search if the choice does
    not hold in cross-validation: if methods that are chosen so lose on the questions left out.

    Args:
        scores: of every candidate, on the same questions.
        settings: number of resamples, confidence and seed of the paired bootstrap.
    """
    queries = scores[DENSE].query_ids
    if len(queries) < FEWEST_QUESTIONS:
        return Choice(
            DENSE, f"only {len(queries)} questions: at least {FEWEST_QUESTIONS} are needed to choose"
        )
    chosen = _first_of_the_best(scores, settings)
    if chosen == DENSE:
        return Choice(DENSE, "no other method is significantly better")
    searched = _cross_validated(scores, settings)
    gain = compare(scores[DENSE], searched, settings)[METRIC]
    if gain.delta <= 0:
        return Choice(
            DENSE, f"{chosen} was best, but not on questions left out of the choice", gain, searched
        )
    return Choice(
        chosen, "best on the eval set; the gain is that on questions left out of the choice", gain, searched
    )


def _first_of_the_best(
    scores: Mapping[SearchMethod, RetrievalScores], settings: EvalSettings
) -> SearchMethod:
    """The first candidate that is the best, or whose interval below the best reaches zero."""
    best = max(CANDIDATES, key=lambda method: scores[method].means()[METRIC])
    return next(
        method
        for method in CANDIDATES
        if method == best or compare(scores[method], scores[best], settings)[METRIC].low <= 0
    )


def _cross_validated(
    scores: Mapping[SearchMethod, RetrievalScores], settings: EvalSettings
) -> RetrievalScores:
    """Every question's scores by the method chosen on the questions of the other folds."""
    dense = scores[DENSE]
    folds = fold_of(dense.query_ids)
    per_query = {name: values.copy() for name, values in dense.per_query.items()}
    for fold in set(folds.tolist()):
        left_out = folds == fold
        others = {method: _part(each, ~left_out) for method, each in scores.items()}
        taken = scores[_first_of_the_best(others, settings)]
        for name, values in per_query.items():
            values[left_out] = taken.per_query[name][left_out]
    return replace(dense, per_query=per_query, run={})


def fold_of(queries: Sequence[str]) -> NDArray[np.int64]:
    """The part of the cross-validation that each question is in, the same for every model: int64 [n]."""
    return np.array([int(digest_text(query), 16) % FOLDS for query in queries])


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
    each part gains (:func:`~assets_pkg.reindex.gains.write_gains`), that of the search cross-validated.

    Args:
        base: of the base model; None if ``model`` is it.
    """
    scores = measure_methods(eval_set, encoder, CANDIDATES, progress)
    if search.method == "auto":
        choice = choose(scores, settings)
    else:
        choice = Choice(SearchMethod.parse(search.method), "set by search.method")
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
        parts.append((f"search: {choice.method}", choice.searched or scores[choice.method]))
    texts = {each.query_id: each.text for each in read_queries(eval_set.beir)}
    write_gains(folder, parts, texts, settings)


def _part(scores: RetrievalScores, chosen: np.ndarray) -> RetrievalScores:
    """The scores of some queries: bool [n]."""
    queries = tuple(query for query, kept in zip(scores.query_ids, chosen, strict=True) if kept)
    per_query = {name: values[chosen] for name, values in scores.per_query.items()}
    return RetrievalScores(queries, per_query, scores.run, scores.eval_set)
