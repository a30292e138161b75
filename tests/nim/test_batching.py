"""The rules of a batch, over made-up queues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.nim.batching import MAX_WASTE, LengthQueue, neighbours, pad, plan_batches

lengths_lists = st.lists(st.integers(1, 600), min_size=1, max_size=120)
budgets = st.integers(1, 2000)


@dataclass(frozen=True)
class Text:
    length: int
    order: int


def keeps_the_rules(lengths: list[int], budget: int) -> bool:
    padded = len(lengths) * max(lengths)
    return len(lengths) == 1 or (padded <= budget and (padded - sum(lengths)) / padded <= MAX_WASTE + 1e-9)


@given(lengths_lists, budgets)
def test_a_plan_holds_every_text_once_in_good_batches(lengths: list[int], budget: int) -> None:
    batches = list(plan_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(keeps_the_rules([lengths[index] for index in batch], budget) for batch in batches)
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_plan_of_nothing() -> None:
    assert list(plan_batches([], 512)) == []


@given(lengths_lists, budgets, st.data())
def test_neighbours_are_a_good_batch_that_cannot_grow(
    lengths: list[int], budget: int, data: st.DataObject
) -> None:
    lengths = sorted(lengths)
    start = data.draw(st.integers(0, len(lengths) - 1))
    low, high = neighbours(lengths, start, budget)
    assert low <= start < high
    assert keeps_the_rules(lengths[low:high], budget)
    if low > 0:
        assert not keeps_the_rules(lengths[low - 1 : high], budget)
    if high < len(lengths):
        assert not keeps_the_rules(lengths[low : high + 1], budget)


def test_neighbours_are_the_nearest_in_length() -> None:
    lengths = [10, 11, 98, 99, 100, 101, 102, 180]
    assert neighbours(lengths, 4, 5 * 102) == (2, 7)
    assert neighbours(lengths, 0, 512) == (0, 2)
    assert neighbours(lengths, 7, 100) == (7, 8)


@given(lengths_lists, budgets, st.data())
def test_a_queue_loses_nothing_and_keeps_order(lengths: list[int], budget: int, data: st.DataObject) -> None:
    texts = [Text(length, order) for order, length in enumerate(lengths)]
    queue: LengthQueue[Text] = LengthQueue()
    for text in texts:
        queue.add(text)
    waiting = set(texts)
    while waiting:
        chosen = data.draw(st.sampled_from(sorted(waiting, key=lambda text: text.order)))
        if data.draw(st.booleans()):
            queue.discard(chosen)
            waiting.remove(chosen)
            continue
        batch = queue.take_around(chosen, budget)
        assert chosen in batch
        assert len(set(batch)) == len(batch)
        assert set(batch) <= waiting
        assert keeps_the_rules([text.length for text in batch], budget)
        waiting -= set(batch)
        assert len(queue) == len(waiting)
    assert len(queue) == 0


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=20), min_size=1, max_size=20))
def test_padding_is_on_the_right_and_masked(rows: list[list[int]]) -> None:
    input_ids, mask = pad([np.array(row, dtype=np.int64) for row in rows])
    assert input_ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert input_ids.dtype == mask.dtype == np.int64
    for row, ids, flags in zip(rows, input_ids.tolist(), mask.tolist(), strict=True):
        assert ids == row + [0] * (len(ids) - len(row))
        assert flags == [1] * len(row) + [0] * (len(ids) - len(row))
