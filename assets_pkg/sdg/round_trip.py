"""Round-trip retrieval: does the base model find a question's passage among all passages?

Consistency filtering after Alberti et al. 2019 (Synthetic QA Corpora Generation with Roundtrip Consistency)
and Dai et al. 2022 (Promptagator), but lenient: pairs that the base model ranks low are the ones to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from resources.encoders.base import Encoder
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_TEXTS = 4096
BLOCK_QUESTIONS = 4096
TIE = 1e-6
"""Scores closer than this are equal: rounding depends on the shape of the blocks."""


def ranks_of_positives(
    questions: Sequence[str],
    positives: Sequence[str],
    others: Iterable[str],
    encoder: Encoder,
    progress: Progress = no_progress,
    total: int = 0,
) -> NDArray[np.int64]:
    """Rank (from 1) of each question's own positive among the distinct texts of all positives and ``others``.

    Exact, by inner product; a text with the positive's score ranks before it. Memory: the vectors of questions and
    positives, and one block of ``others`` (4096 x 4096 float32 scores).
    """
    import numpy as np

    distinct = list(dict.fromkeys(positives))
    index = {text: number for number, text in enumerate(distinct)}
    own = np.array([index[text] for text in positives], dtype=np.int64)
    queries = encoder.embed(questions, "query")
    answers = encoder.embed(distinct, "passage", _after(0, total, progress))
    done = len(distinct)
    own_scores = np.einsum("ij,ij->i", queries, answers[own])
    ranks = np.ones(len(questions), dtype=np.int64) + _count_better(queries, own_scores, answers, own)
    for block in _blocks(others):
        vectors = encoder.embed(block, "passage", _after(done, total, progress))
        ranks += _count_better(queries, own_scores, vectors, None)
        done += len(block)
    progress(done, total, "passages")
    return ranks


def _after(before: int, whole: int, progress: Progress) -> Progress:
    """Progress of one block, as that of all passages, of which there are ``whole``."""

    def report(done: int, total: int, unit: str, **figures: float) -> None:
        progress(before + done, whole, "passages")

    return report


def score_of_rank(rank: int) -> float:
    """A rank as a score from 10 down to 1: ``10 - 1.5 * log10(rank)``.

    Rank 1 gives 10, rank 10 gives 8.5, rank 100 gives 7.0 and rank 1000 gives 5.5. At the recipe's quality
    threshold of 7.0 a pair is kept when the base model ranks its passage among the first hundred.
    """
    return round(max(1.0, 10.0 - 1.5 * math.log10(rank)), 2)


def _count_better(
    queries: NDArray[np.float32],
    own_scores: NDArray[np.float32],
    vectors: NDArray[np.float32],
    own: NDArray[np.int64] | None,
) -> NDArray[np.int64]:
    """For each question, the number of vectors other than its ``own`` with at least its positive's score; int64 [n]."""
    import numpy as np

    counts = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(queries), BLOCK_QUESTIONS):
        rows = slice(start, start + BLOCK_QUESTIONS)
        for first in range(0, len(vectors), BLOCK_TEXTS):
            block = vectors[first : first + BLOCK_TEXTS]
            better = queries[rows] @ block.T >= own_scores[rows, None] - TIE
            if own is not None:
                mine = own[rows] - first
                inside = np.flatnonzero((mine >= 0) & (mine < len(block)))
                better[inside, mine[inside]] = False
            counts[rows] += better.sum(axis=1)
    return counts


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while block := list(islice(stream, BLOCK_TEXTS)):
        yield block
