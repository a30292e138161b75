"""Which texts to run together: neighbours in length, within a budget of tokens.

A batch is padded to its longest row, so its cost is rows x longest. Texts of like length waste nothing on
padding, and a bounded product keeps the working set in cache and bounds the peak of memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

MAX_WASTE = 0.2
"""The largest share of a batch that may be padding."""

DEFAULT_BATCH_TOKENS = 512
"""The padded size that ran fastest on CPUs: a larger batch outgrows the cache."""


class Waiting(Protocol):
    """A text in a queue: its length in tokens, and a number that says which came first."""

    @property
    def length(self) -> int: ...
    @property
    def order(self) -> int: ...


T = TypeVar("T", bound=Waiting)


def is_good_batch(rows: int, longest: int, tokens: int, budget: int) -> bool:
    """Whether ``rows`` texts of ``tokens`` tokens together, the longest ``longest``, keep to the rules.

    One text alone always does: refusing a text longer than the budget would leave it waiting for ever.
    """
    padded = rows * longest
    return rows == 1 or (padded <= budget and padded - tokens <= MAX_WASTE * padded)


def neighbours(lengths: Sequence[int], start: int, budget: int) -> tuple[int, int]:
    """The run of ascending ``lengths`` around ``start`` to make a batch of, grown to the nearer side first.

    Returns ``low, high``: the run is ``lengths[low:high]``, holds ``start`` and is a good batch.
    """
    low, high, tokens = start, start + 1, lengths[start]

    def below_fits() -> bool:
        return low > 0 and is_good_batch(high - low + 1, lengths[high - 1], tokens + lengths[low - 1], budget)

    def above_fits() -> bool:
        return high < len(lengths) and is_good_batch(
            high - low + 1, lengths[high], tokens + lengths[high], budget
        )

    while True:
        below, above = below_fits(), above_fits()
        if below and above:
            below = lengths[start] - lengths[low - 1] <= lengths[high] - lengths[start]
        if below:
            low -= 1
            tokens += lengths[low]
        elif above:
            tokens += lengths[high]
            high += 1
        else:
            return low, high


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut a known set of texts into good batches: lists of indices into ``lengths``, longest texts first.

    Every index comes once. The longest go first so that the last batches are short ones, and threads that
    share the work end together.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and not is_good_batch(len(batch) + 1, lengths[batch[0]], tokens + lengths[index], budget):
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
