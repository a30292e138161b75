"""The rules of a batch, over made-up queues."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.nim.batching import OVERHEAD, LengthQueue, neighbours, pad, plan_batches

lengths_lists = st.lists(st.integers(1, 600), min_size=1, max_size=120)
budgets = st.integers(1, 2000)


@dataclass(frozen=True)
class Text:
    length: int
    order: int


def cost(lengths: list[int], budget: int) -> float:
    """Of one batch, per token: its padded size and what any batch costs besides."""
    return (OVERHEAD * budget + len(lengths) * max(lengths)) / sum(lengths)


def fits(lengths: list[int], budget: int) -> bool:
    return len(lengths) == 1 or len(lengths) * max(lengths) <= budget


@given(lengths_lists, budgets)
def test_a_plan_holds_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(plan_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    sizes = [[lengths[index] for index in batch] for batch in batches]
    assert all(fits(batch, budget) for batch in sizes)
    assert [length for batch in sizes for length in batch] == sorted(lengths, reverse=True)
    # No batch would have been cheaper per token with the next text, or without its last.
    for batch, following in pairwise(sizes):
        joined = [*batch, following[0]]
        assert not fits(joined, budget) or cost(joined, budget) >= cost(batch, budget)
    assert all(cost(batch, budget) < cost(batch[:-1], budget) for batch in sizes if len(batch) > 1)


def test_a_plan_of_nothing() -> None:
    assert list(plan_batches([], 512)) == []


@given(lengths_lists, budgets, st.data())
def test_neighbours_hold_the_text_and_cost_no_more_for_being_together(
    lengths: list[int], budget: int, data: st.DataObject
) -> None:
    lengths = sorted(lengths)
    start = data.draw(st.integers(0, len(lengths) - 1))
    low, high = neighbours(lengths, start, budget)
    batch = lengths[low:high]
    assert low <= start < high
    assert fits(batch, budget)
    if (low, high) == (0, len(lengths)):
        return
    assert cost(batch, budget) <= cost([lengths[start]], budget)
    grown = [lengths[low - 1 : high]] if low else []
    grown += [lengths[low : high + 1]] if high < len(lengths) else []
    assert all(not fits(more, budget) or cost(more, budget) >= cost(batch, budget) for more in grown)


def test_neighbours_are_the_nearest_in_length() -> None:
    lengths = [10, 11, 98, 99, 100, 101, 102, 180]
    assert neighbours(lengths, 4, 5 * 102) == (2, 7)
    assert neighbours(lengths, 0, 512) == (0, 2)
    assert neighbours(lengths, 7, 100) == (7, 8)


def test_a_text_is_left_out_where_its_padding_costs_more_than_a_batch_of_its_own() -> None:
    # The budget of 500 makes a batch cost 20 tokens besides. One text of 100: 120 tokens for 100 read, 1.2 each; with
    # one of 85: 220 for 185, 1.19; with one of 80: 220 for 180, 1.22.
    assert neighbours([5, 85, 100], 2, 500) == (1, 3)
    assert neighbours([5, 80, 100], 2, 500) == (2, 3)


def test_all_that_waits_goes_together_where_little_of_it_is_padding() -> None:
    # 180 of 200 are texts. Alone, either would be cheaper per token, and the other would wait for another batch.
    assert neighbours([80, 100], 1, 500) == (0, 2)


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
        assert fits([text.length for text in batch], budget)
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
