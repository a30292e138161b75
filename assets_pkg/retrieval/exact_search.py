"""Exact top-k search over unit vectors, in bounded memory: the one kernel for mining, evaluation, validation and
index checks.

Scores are dot products. Blocks of float32 products select candidates, with a margin for their rounding; the
candidates are scored again in float64, and where the margin was too narrow (ties at the edge) more are taken.
So the result is that of an all-pairs float64 search with ties in favour of the lower index,
at the speed of a float32 matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
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

QUERIES_PER_PASS = 16384
"""Queries for which the passages are read once."""

SPARE = 16
"""Candidates fetched beyond k, so that rounding at the edge seldom needs a second look."""

GROUP = 64
"""Adjacent passages whose maximum score is compared first: most groups hold neither a candidate nor a score over the
ceiling, and their scores are not compared one by one."""


@dataclass(frozen=True)
class TopK:
    """The best passages of every query, best first.

    ``ids``: int64 [n, k], indices of passages, -1 where there are fewer than k. ``scores``: float64 [n, k],
    NaN there. ``above``: int64 [n], passages that the ceiling excluded (counted in float32, so off by ties).
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
    query_block: int = QUERIES_PER_PASS,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> TopK:
    """The ``k`` highest-scoring passages of each query.

    Args:
        queries: unit vectors, float32 [n, d].
        passages: unit vectors, float32 [m, d]; may be a memory map, it is read in blocks.
        ceilings: passages that score above a query's ceiling are excluded; float64 [n].
        excluded: indices of excluded passages, per query.
        query_block: queries for which the passages are read once.
        device: the torch device of the matrix products.
    """
    count = len(queries)
    found = TopK(
        np.full((count, k), -1, dtype=np.int64),
        np.full((count, k), np.nan),
        np.zeros(count, dtype=np.int64),
    )
    left_out = [np.unique(np.asarray(ids, dtype=np.int64)) for ids in excluded or [()] * count]
    limits = np.full(count, np.inf) if ceilings is None else ceilings
    with _full_precision():
        for start in range(0, count, query_block):
            rows = slice(start, min(start + query_block, count))
            block = _QueryBlock(queries[rows], passages, k, limits[rows], left_out[rows], device)
            report = _BlockProgress(progress, start, rows.stop - start, count)
            found.ids[rows], found.scores[rows], found.above[rows] = block.search(report)
            progress(rows.stop, count, "queries")
    return found


def merge(parts: Sequence[tuple[int, TopK]], k: int) -> TopK:
    """The best ``k`` of the results for the same queries in several parts of the passages, each (index of its first
    passage, result); ties in favour of the lower index, as in one search."""
    ids = np.concatenate([np.where(found.ids < 0, -1, found.ids + start) for start, found in parts], axis=1)
    scores = np.concatenate([found.scores for _, found in parts], axis=1)
    order = np.lexsort((ids, -scores))[:, :k]  # NaN, where there is none, comes last
    above = np.sum([found.above for _, found in parts], axis=0)
    return TopK(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1), above)


class BlockwiseSearch:
    """Exact search over passages that arrive in blocks: :func:`exact_search` over all blocks added so far.

    ``found`` holds the result; its ids count passages from the first block on.
    """

    def __init__(self, queries: Vectors, k: int, device: str = "cpu"):
        self._queries = queries
        self._k = k
        self._device = device
        self._passages = 0
        nothing = np.empty((len(queries), 0))
        self.found = TopK(nothing.astype(np.int64), nothing, np.zeros(len(queries), dtype=np.int64))

    def add(self, passages: Vectors) -> None:
        """Search the next block: unit vectors, float32 [m, d]."""
        k = min(self._k, len(passages))
        found = exact_search(self._queries, passages, k, device=self._device)
        self.found = merge([(0, self.found), (self._passages, found)], self._k)
        self._passages += len(passages)


def pair_scores(queries: Vectors, passages: Vectors, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64 dot products of the (query index, passage index) rows of ``pairs`` [n, 2]: float64 [n].

    Equal vectors get equal scores at any index (which a matrix product does not guarantee).
    """
    scores = np.empty(len(pairs))
    for start in range(0, len(pairs), PASSAGE_BLOCK):
        part = slice(start, start + PASSAGE_BLOCK)
        left = queries[pairs[part, 0]].astype(np.float64)
        scores[part] = np.einsum("ij,ij->i", left, passages[pairs[part, 1]].astype(np.float64))
    return scores


@contextmanager
def _full_precision() -> Generator[None]:
    """Products of float32 in float32, though training may have set TF32 or bfloat16 for them: the margin for
    rounding depends on it."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class _BlockProgress:
    """Progress of ``count`` queries from index ``start``: the fraction of passages searched, reported as queries."""

    progress: Progress
    start: int
    count: int
    total: int

    def __call__(self, searched: float) -> None:
        self.progress(self.start + int(searched * self.count), self.total, "queries")


@dataclass(frozen=True)
class _QueryBlock:
    """The search of one block of queries over all passages."""

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

    def search(
        self, report: Callable[[float], None]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Indices, scores and counts over the ceiling, as in :class:`TopK`."""
        best = np.full((len(self.queries), self.k), -1, dtype=np.int64)
        exact = np.full((len(self.queries), self.k), np.nan)
        above = np.zeros(len(self.queries), dtype=np.int64)
        rows, width = np.arange(len(self.queries)), self.k + SPARE
        while len(rows):
            width = min(width, len(self.passages))
            scores, ids, above[rows] = self._candidates(rows, width, report)
            self._rank(rows, scores, ids, best, exact)
            if width == len(self.passages):
                break
            # Other passages score at most as the last candidate: complete where that is clearly below the k-th.
            reached = np.where(best[rows, -1] >= 0, exact[rows, -1], -np.inf)
            last = scores[:, -1].astype(np.float64)
            rows = rows[(last > -np.inf) & (last >= reached - self.rounding)]
            width, report = width * 4, _no_report
        return best, exact, above

    def _candidates(
        self, rows: NDArray[np.int64], width: int, report: Callable[[float], None]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The ``width`` best by float32 score, sorted (-inf: none), their indices, and counts over the ceiling."""
        import torch

        queries = torch.from_numpy(np.ascontiguousarray(self.queries[rows])).to(self.device)
        best = _Candidates(len(rows), width, self._ceilings(rows), self.device)
        excluded = self._excluded_pairs(rows)
        columns = -(-PASSAGE_BLOCK // GROUP) * GROUP
        buffer = torch.full((QUERY_BLOCK, columns), -torch.inf, device=self.device)
        for start in range(0, len(self.passages), PASSAGE_BLOCK):
            if start:
                report(start / len(self.passages))
            block = np.array(self.passages[start : start + PASSAGE_BLOCK], order="C")
            passages = torch.from_numpy(block).to(self.device).T
            for top in range(0, len(rows), QUERY_BLOCK):
                part = slice(top, min(top + QUERY_BLOCK, len(rows)))
                scores = buffer[: part.stop - top]
                scores[:, len(block) :] = -torch.inf
                _multiply(queries[part], passages, scores[:, : len(block)])
                low, high = np.searchsorted(excluded[:, 0], [start, start + len(block)])
                inside = excluded[low:high][
                    (excluded[low:high, 1] >= top) & (excluded[low:high, 1] < part.stop)
                ]
                scores[inside[:, 1] - top, inside[:, 0] - start] = -torch.inf
                best.update(part, start, scores)
        return best.scores.cpu().numpy(), best.ids.cpu().numpy(), best.above.cpu().numpy()

    def _ceilings(self, rows: NDArray[np.int64]) -> torch.Tensor | None:
        """Float32 [n, 1], raised by the rounding: candidates over the true ceiling are removed later."""
        import torch

        if not np.isfinite(self.ceilings).any():
            return None
        raised = (self.ceilings[rows] + self.rounding).astype(np.float32)
        return torch.from_numpy(raised[:, None]).to(self.device)

    def _excluded_pairs(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(passage index, row) of the excluded passages, by index: int64 [n, 2]."""
        pairs = [(index, row) for row, query in enumerate(rows) for index in self.excluded[query]]
        return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)

    def _rank(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        ids: NDArray[np.int64],
        best: NDArray[np.int64],
        exact: NDArray[np.float64],
    ) -> None:
        """Fill ``best`` and ``exact`` of ``rows`` from their candidates: under the ceiling, by float64 score,
        then by index."""
        row, column = np.nonzero(scores > -np.inf)
        query, passage = rows[row], ids[row, column]
        score = pair_scores(self.queries, self.passages, np.stack([query, passage], axis=1))
        allowed = score <= self.ceilings[query]
        query, passage, score = query[allowed], passage[allowed], score[allowed]
        order = np.lexsort((passage, -score, query))
        query, passage, score = query[order], passage[order], score[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = rank < self.k
        best[query[kept], rank[kept]] = passage[kept]
        exact[query[kept], rank[kept]] = score[kept]


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """``left @ right`` into ``out``. On a CPU by numpy's OpenBLAS: torch's MKL takes twice as long on AMD's."""
    import torch

    if out.device.type == "cpu":
        np.matmul(left.numpy(), right.numpy(), out=out.numpy())
    else:
        torch.mm(left, right, out=out)


def _no_report(searched: float) -> None:
    """Repeated searches of a few queries report no progress."""


class _Candidates:
    """The best candidates so far of every query: ``scores`` float32 [n, width], sorted, and ``ids``;
    ``above`` int64 [n] counts the scores over the ceiling."""

    def __init__(self, count: int, width: int, ceilings: torch.Tensor | None, device: str):
        import torch

        self.scores = torch.full((count, width), -torch.inf, device=device)
        self.ids = torch.zeros((count, width), dtype=torch.int64, device=device)
        self.above = torch.zeros(count, dtype=torch.int64, device=device)
        self._ceilings = ceilings

    def update(self, part: slice, start: int, scores: torch.Tensor) -> None:
        """Merge the scores of passages from index ``start``: contiguous float32 [rows of ``part``, whole groups];
        they are overwritten."""
        groups = scores.view(-1, GROUP)
        maxima = groups.amax(1).view(len(scores), -1)
        if self._ceilings is not None:
            self._apply_ceilings(groups, maxima, self._ceilings[part], self.above[part])
        self._merge(part, start, groups, maxima)

    def _apply_ceilings(
        self, groups: torch.Tensor, maxima: torch.Tensor, ceilings: torch.Tensor, above: torch.Tensor
    ) -> None:
        """Set scores over the ceiling to -inf and count them."""
        import torch

        found = (maxima > ceilings).view(-1).nonzero()[:, 0]
        if not len(found):
            return
        row = found // maxima.shape[1]
        inside = groups.index_select(0, found)
        over = inside > ceilings[row]
        above.index_add_(0, row, over.sum(1))
        inside.masked_fill_(over, -torch.inf)
        groups.index_copy_(0, found, inside)
        maxima.view(-1).index_copy_(0, found, inside.amax(1))

    def _merge(self, part: slice, start: int, groups: torch.Tensor, maxima: torch.Tensor) -> None:
        """Insert the scores that exceed the last candidate."""
        import torch

        scores, ids = self.scores[part], self.ids[part]
        floor = self._floor(scores, maxima)
        found = (maxima > floor).view(-1).nonzero()[:, 0]
        if not len(found):
            return
        count = maxima.shape[1]
        inside = groups.index_select(0, found)
        which, column = (inside > floor[found // count]).nonzero(as_tuple=True)
        row, passage = found[which] // count, start + (found[which] % count) * GROUP + column
        counts = torch.bincount(row, minlength=len(scores))
        position = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        new = scores.new_full((len(scores), int(counts.max())), -torch.inf)
        new_ids = ids.new_zeros(new.shape)
        new[row, position], new_ids[row, position] = inside[which, column], passage
        merged, order = torch.cat([scores, new], 1).topk(scores.shape[1], sorted=True)
        self.ids[part] = torch.cat([ids, new_ids], 1).gather(1, order)
        self.scores[part] = merged

    def _floor(self, scores: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
        """The score that a new candidate must exceed, float32 [n, 1]: the last candidate's; where there are too few
        so far, a lower bound from the best groups (their maxima are that many scores)."""
        import torch

        floor, width = scores[:, -1:], scores.shape[1]
        if maxima.shape[1] < width or bool((floor > -torch.inf).all()):
            return floor
        certain = maxima.topk(width, sorted=True).values[:, -1:]
        return torch.maximum(floor, torch.nextafter(certain, torch.full_like(certain, -torch.inf)))
