"""Which texts to run together: neighbours in length, within a budget of tokens.

A batch is padded to its longest row, so its cost is rows x longest. Texts of like length waste nothing on
padding, and a bounded product keeps the working set in cache and bounds the peak of memory.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

DEFAULT_BATCH_TOKENS = 512
"""The padded size that ran fastest on CPUs: a larger batch outgrows the cache."""

OVERHEAD = 0.04
"""What a batch costs besides its padded tokens, as a share of the budget: MiniLM took the time of 21 tokens of 512.
A budget is well chosen where this has become little."""

MAX_WASTE = 0.2
"""The largest share that may be padding in a batch of all that waits."""


class Waiting(Protocol):
    """A text in a queue: its length in tokens, and a number that says which came first."""

    @property
    def length(self) -> int: ...
    @property
    def order(self) -> int: ...


T = TypeVar("T", bound=Waiting)


def price(rows: int, longest: int, tokens: int, budget: int) -> float:
    """What ``rows`` texts of ``tokens`` tokens together, the longest ``longest``, cost as one batch, per token.

    Infinite beyond the budget, except for one text alone: to refuse it would leave it waiting for ever.
    """
    padded = rows * longest
    return math.inf if rows > 1 and padded > budget else (OVERHEAD * budget + padded) / tokens


def neighbours(lengths: Sequence[int], start: int, budget: int) -> tuple[int, int]:
    """The run of ascending ``lengths`` around ``start`` to make a batch of.

    All of them where that wastes little; otherwise what lies nearest in length, as long as the price falls.
    Returns ``low, high``: the run is ``lengths[low:high]`` and holds ``start``.
    """
    padded = len(lengths) * lengths[-1]
    if padded <= budget and padded - sum(lengths) <= MAX_WASTE * padded:
        return 0, len(lengths)
    low, high, tokens = start, start + 1, lengths[start]
    paid = price(1, tokens, tokens, budget)
    while True:
        rows = high - low + 1
        below = price(rows, lengths[high - 1], tokens + lengths[low - 1], budget) if low else math.inf
        above = (
            price(rows, lengths[high], tokens + lengths[high], budget) if high < len(lengths) else math.inf
        )
        if min(below, above) >= paid:
            return low, high
        if below <= above:
            low, tokens, paid = low - 1, tokens + lengths[low - 1], below
        else:
            high, tokens, paid = high + 1, tokens + lengths[high], above


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut a known set of texts into batches: lists of indices into ``lengths``, longest texts first.

    Every index comes once. The longest go first so that the last batches are short ones, and threads that
    share the work end together.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch:
            rows, longest = len(batch), lengths[batch[0]]
            joined = price(rows + 1, longest, tokens + lengths[index], budget)
            if joined >= price(rows, longest, tokens, budget):
                yield batch
                batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch


class LengthQueue(Generic[T]):
    """Waiting items in ascending length, equals in order of arrival."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._keys: list[tuple[int, int]] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        key = (item.length, item.order)
        place = bisect_left(self._keys, key)
        self._items.insert(place, item)
        self._keys.insert(place, key)
        self._lengths.insert(place, item.length)

    def take_around(self, item: T, budget: int) -> list[T]:
        """Remove and return ``item``, which must be waiting, and the neighbours that make a good batch."""
        return self._remove(*neighbours(self._lengths, self._place(item), budget))

    def discard(self, item: T) -> None:
        """Remove ``item``, which must be waiting."""
        place = self._place(item)
        self._remove(place, place + 1)

    def _place(self, item: T) -> int:
        return bisect_left(self._keys, (item.length, item.order))

    def _remove(self, low: int, high: int) -> list[T]:
        removed = self._items[low:high]
        del self._items[low:high], self._keys[low:high], self._lengths[low:high]
        return removed


def pad(rows: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and attention mask, both int64 [rows, longest], padded on the right.

    The id at padding is 0: a masked position's id reaches no output.
    """
    longest = max(len(row) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        input_ids[place, : len(row)] = row
        attention_mask[place, : len(row)] = 1
    return input_ids, attention_mask
