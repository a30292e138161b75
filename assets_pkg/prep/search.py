"""Exact top-k search over unit vectors, in bounded memory.

Scores are dot products. Blocks of float32 products pick candidates, with a margin for their rounding; the
candidates are scored again in float64, and where the margin was too narrow (ties at the edge) more are taken.
So the result is that of an all-pairs float64 search with ties in favour of the lower index,
at the speed of a float32 matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

QUERY_BLOCK = 1024
PASSAGE_BLOCK = 4096
"""Rows and columns of the scores held at a time: 16 MiB."""

SPARE = 16
"""Candidates fetched beyond k, so that rounding at the edge seldom needs a second look."""

GROUP = 64
"""Neighbouring passages whose best score is looked at first: most groups hold no candidate."""


@dataclass(frozen=True)
class TopK:
    """The best passages of every query, best first.

    ``ids``: int64 [n, k], places in the passages, -1 where there are fewer than k. ``scores``: float64 [n, k],
    NaN there. ``above``: int64 [n], how many passages the ceiling hid (in float32, so off by ties).
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    above: NDArray[np.int64]


def exact_search(
    queries: Vectors,
    passages: Vectors,
    k: int,
    *,
    ceilings: NDArray[np.float64] | None = None,
    excluded: Sequence[Sequence[int]] | None = None,
    query_block: int = QUERY_BLOCK,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> TopK:
    """The ``k`` highest-scoring passages of each query.

    Args:
        queries: unit vectors, float32 [n, d].
        passages: unit vectors, float32 [m, d]; may be a memory map, it is read in blocks.
        ceilings: scores above a query's ceiling do not count; float64 [n].
        excluded: places of passages that do not count, per query.
        query_block: queries scored at a time.
        device: the torch device of the matrix products.
    """
    count = len(queries)
    found = TopK(
        np.full((count, k), -1, dtype=np.int64),
        np.full((count, k), np.nan),
        np.zeros(count, dtype=np.int64),
    )
    hidden = [np.unique(np.asarray(places, dtype=np.int64)) for places in excluded or [()] * count]
    tops = np.full(count, np.inf) if ceilings is None else ceilings
    for start in range(0, count, query_block):
        rows = slice(start, min(start + query_block, count))
        block = _Block(queries[rows], passages, k, tops[rows], hidden[rows], device)
        found.ids[rows], found.scores[rows], found.above[rows] = block.search()
        progress(rows.stop, count, "queries")
    return found


def pair_scores(queries: Vectors, passages: Vectors, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64 dot products of the (query place, passage place) rows of ``pairs`` [n, 2]: float64 [n].

    Equal vectors get equal scores, wherever they stand (which a matrix product does not promise).
    """
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), PASSAGE_BLOCK):
        part = slice(start, start + PASSAGE_BLOCK)
        left = queries[pairs[part, 0]].astype(np.float64)
        scores[part] = np.einsum("ij,ij->i", left, passages[pairs[part, 1]].astype(np.float64))
    return scores


@dataclass(frozen=True)
class _Block:
    """The search of a few queries over all passages."""

    queries: Vectors
    passages: Vectors
    k: int
    ceilings: NDArray[np.float64]
    excluded: Sequence[NDArray[np.int64]]
    device: str

    @property
    def rounding(self) -> float:
        """Twice the largest error of a float32 dot product of unit vectors (d half-units in the last place)."""
        return self.queries.shape[1] * float(np.finfo(np.float32).eps)

    def search(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Places, scores and counts over the ceiling, as in :class:`TopK`."""
        best = np.full((len(self.queries), self.k), -1, dtype=np.int64)
        exact = np.full((len(self.queries), self.k), np.nan)
        above = np.zeros(len(self.queries), dtype=np.int64)
        rows, width = np.arange(len(self.queries)), self.k + SPARE
        while len(rows):
            width = min(width, len(self.passages))
            scores, places, above[rows] = self._candidates(rows, width)
            self._rank(rows, scores, places, best, exact)
            if width == len(self.passages):
                break
            # What is no candidate scores at most the last candidate: safe where that is clearly below the k-th.
            reached = np.where(best[rows, -1] >= 0, exact[rows, -1], -np.inf)
            last = scores[:, -1].astype(np.float64)
            rows = rows[(last > -np.inf) & (last >= reached - self.rounding)]
            width *= 4
        return best, exact, above

    def _candidates(
        self, rows: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The ``width`` best by float32 score, sorted (-inf: none), their places, and counts over the ceiling."""
        import torch

        ceilings = self._ceilings(rows)
        scores = torch.full((len(rows), width), -torch.inf, device=self.device)
        ids = torch.zeros((len(rows), width), dtype=torch.int64, device=self.device)
        above = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        for start, block in self._products(rows):
            if ceilings is not None:
                over = block > ceilings
                above += over.sum(1)
                block.masked_fill_(over, -torch.inf)
            part, places = _top(block, width)
            scores, order = torch.cat([scores, part], 1).topk(width, sorted=True)
            ids = torch.cat([ids, places + start], 1).gather(1, order)
        return scores.cpu().numpy(), ids.cpu().numpy(), above.cpu().numpy()

    def _ceilings(self, rows: NDArray[np.int64]) -> torch.Tensor | None:
        """Float32 [n, 1], raised by the rounding: candidates over the true ceiling go later."""
        import torch

        if not np.isfinite(self.ceilings).any():
            return None
        raised = (self.ceilings[rows] + self.rounding).astype(np.float32)
        return torch.from_numpy(raised[:, None]).to(self.device)

    def _products(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, torch.Tensor]]:
        """(first passage, scores float32 [len(rows), block]) of every block, excluded passages at -inf."""
        import torch

        queries = torch.from_numpy(np.ascontiguousarray(self.queries[rows])).to(self.device)
        pairs = [(place, row) for row, query in enumerate(rows) for place in self.excluded[query]]
        hidden = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
        for start in range(0, len(self.passages), PASSAGE_BLOCK):
            block = np.ascontiguousarray(self.passages[start : start + PASSAGE_BLOCK])
            scores = queries @ torch.from_numpy(block).to(self.device).T
            low, high = np.searchsorted(hidden[:, 0], [start, start + len(block)])
            places = torch.from_numpy(hidden[low:high]).to(self.device)
            scores[places[:, 1], places[:, 0] - start] = -torch.inf
            yield start, scores

    def _rank(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        places: NDArray[np.int64],
        best: NDArray[np.int64],
        exact: NDArray[np.float64],
    ) -> None:
        """Fill ``best`` and ``exact`` of ``rows`` from their candidates: under the ceiling, by float64 score,
        then by place."""
        row, column = np.nonzero(scores > -np.inf)
        query, place = rows[row], places[row, column]
        score = pair_scores(self.queries, self.passages, np.stack([query, place], axis=1))
        allowed = score <= self.ceilings[query]
        query, place, score = query[allowed], place[allowed], score[allowed]
        order = np.lexsort((place, -score, query))
        query, place, score = query[order], place[order], score[order]
        position = np.arange(len(query)) - np.searchsorted(query, query)
        kept = position < self.k
        best[query[kept], position[kept]] = place[kept]
        exact[query[kept], position[kept]] = score[kept]


def _top(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``width`` highest of each row (all, if there are fewer), unsorted, and their columns.

    The best ``width`` lie in the ``width`` groups with the best maxima, so only those are looked through.
    """
    import torch

    rows, columns = scores.shape
    groups = columns // GROUP
    if groups <= width:
        return scores.topk(min(width, columns), sorted=False)
    whole = scores[:, : groups * GROUP].unflatten(1, (groups, GROUP))
    best = whole.amax(2).topk(width, sorted=False).indices
    inside = best[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)
    rest = torch.arange(groups * GROUP, columns, device=scores.device).expand(rows, -1)
    candidates = torch.cat([inside.flatten(1), rest], 1)
    values, order = scores.gather(1, candidates).topk(width, sorted=False)
    return values, candidates.gather(1, order)
