"""Batches of texts of similar length, within a budget of padded tokens.

A batch is padded to its longest row, so its cost is rows x longest. Texts of similar length need little padding, and
the bound on the product keeps the working set in cache and limits peak memory.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

DEFAULT_BATCH_TOKENS = 512
"""The padded size that was fastest on CPUs: larger batches do not fit the cache."""

OVERHEAD = 0.04
"""The fixed cost of a batch, as a share of the budget: with MiniLM the time of 21 tokens of 512. A budget is well
chosen where this share is small."""

MAX_WASTE = 0.2
"""The largest share of padding with which all waiting texts become one batch."""


class Waiting(Protocol):
    """A text in a queue: its length in tokens, and its number in the order of arrival."""

    @property
    def length(self) -> int: ...
    @property
    def order(self) -> int: ...


T = TypeVar("T", bound=Waiting)


def price(rows: int, longest: int, tokens: int, budget: int) -> float:
    """The cost per token of a batch of ``rows`` texts with ``tokens`` tokens in total, ``longest`` in the longest.

    Infinite beyond the budget, except for a single text, which would otherwise wait for ever.
    """
    padded = rows * longest
    return math.inf if rows > 1 and padded > budget else (OVERHEAD * budget + padded) / tokens


def fixed_share(padded: int, budget: int) -> float:
    """The share of a batch's time that does not depend on its texts, with ``padded`` tokens in total."""
    return OVERHEAD * budget / (OVERHEAD * budget + padded)


def neighbours(lengths: Sequence[int], start: int, budget: int) -> tuple[int, int]:
    """The range of ascending ``lengths`` around ``start`` that makes a good batch.

    All of them where little is padding; otherwise the nearest in length, as long as the price falls. Returns
    ``low, high``: the range is ``lengths[low:high]`` and contains ``start``.
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
    """Divide texts into batches: lists of indices into ``lengths``, longest texts first.

    Every index occurs once. The last batches are short ones, so threads that share the work end at about the same
    time.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
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
        position = bisect_left(self._keys, key)
        self._items.insert(position, item)
        self._keys.insert(position, key)
        self._lengths.insert(position, item.length)

    def take_around(self, item: T, budget: int) -> list[T]:
        """Remove and return ``item``, which must be in the queue, and its neighbours that make a good batch."""
        return self._remove(*neighbours(self._lengths, self._position(item), budget))

    def discard(self, item: T) -> None:
        """Remove ``item``, which must be in the queue."""
        position = self._position(item)
        self._remove(position, position + 1)

    def _position(self, item: T) -> int:
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
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        attention_mask[index, : len(row)] = 1
    return input_ids, attention_mask
