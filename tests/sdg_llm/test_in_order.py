"""Order, bounds, and near-duplicates against plain calculation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from material import HashEncoder

from assets_pkg.sdg.llm.async_map import BATCH, map_ordered
from assets_pkg.sdg.llm.dedup import QuestionIndex
from resources.encoders.base import Role
from storage.progress import Progress, no_progress


def test_results_come_in_order_and_in_fixed_batches() -> None:
    batches: list[list[int]] = []

    async def work(item: int) -> int:
        await asyncio.sleep(0.02 if item % 10 == 0 else 0)
        return item

    asyncio.run(map_ordered(range(100), work, lambda batch: batches.append(list(batch)), active=8, window=64))
    assert [item for batch in batches for item in batch] == list(range(100))
    assert [len(batch) for batch in batches] == [BATCH] * 3 + [100 - 3 * BATCH]


def test_no_more_than_the_window_is_begun_ahead_of_a_slow_one() -> None:
    begun, consumed = [0], [0]
    release = asyncio.Event()

    def items() -> Iterator[int]:
        for item in range(500):
            begun[0] += 1
            yield item

    async def work(item: int) -> int:
        if item == 0:
            await release.wait()
        return item

    async def main() -> None:
        running = asyncio.create_task(
            map_ordered(items(), work, lambda batch: consumed.append(len(batch)), active=4, window=40)
        )
        for _ in range(300):
            await asyncio.sleep(0)
        assert 40 <= begun[0] <= 40 + 3
        release.set()
        await running

    asyncio.run(main())
    assert sum(consumed) == 500


@pytest.mark.parametrize("where", ["work", "items", "consume"])
def test_the_first_error_ends_the_run_and_those_under_way_finish(where: str) -> None:
    finished: list[int] = []

    def items() -> Iterator[int]:
        yield from range(100)
        if where == "items":
            raise ValueError("items")
        yield from range(100, 10_000)

    async def work(item: int) -> int:
        await asyncio.sleep(0)
        if where == "work" and item == 70:
            raise ValueError("work")
        await asyncio.sleep(0.001)
        finished.append(item)
        return item

    def consume(batch: Sequence[int]) -> None:
        if where == "consume":
            raise ValueError("consume")

    with pytest.raises(ValueError, match=where):
        asyncio.run(map_ordered(items(), work, consume, active=4, window=8))
    assert len(finished) <= 101
    assert set(range(max(finished))) - set(finished) <= {70}


def test_cancelling_ends_those_under_way() -> None:
    ended: list[str] = []

    async def work(item: int) -> int:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return item

    async def main() -> None:
        running = asyncio.create_task(map_ordered(range(100), work, lambda batch: None, active=4, window=8))
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert ended == ["cancelled"] * 4


class _PlaneEncoder(HashEncoder):
    """A question is an angle in degrees."""

    dimensions = 2

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Any:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 359), max_size=60), st.lists(st.integers(1, 20), min_size=1))
def test_near_duplicates_are_those_of_plain_calculation(angles: list[int], sizes: list[int]) -> None:
    kept: list[int] = []
    for angle in angles:
        if all(np.cos(np.radians(angle - other)) < 0.9 for other in kept):
            kept.append(angle)
    index, found, start = QuestionIndex(_PlaneEncoder(), 0.9), [], 0
    while start < len(angles):
        size = sizes[start % len(sizes)]
        part = [str(angle) for angle in angles[start : start + size]]
        verdicts = index.add(part, part)
        found += [int(text) for text, verdict in zip(part, verdicts, strict=True) if verdict is None]
        start += size
    index.close()
    assert found == kept


def test_the_twin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets_pkg.sdg.llm.dedup._BLOCK_ROWS", 2)
    index = QuestionIndex(_PlaneEncoder(), 0.9)
    assert index.add(["0", "90", "180", "270"], ["a", "b", "c", "d"]) == [None] * 4
    assert index.add(["45", "181", "46"], ["e", "f", "g"]) == [
        None,
        "cosine 1.000 with an earlier question about c",
        "cosine 1.000 with an earlier question about e",
    ]
    assert index.add([], []) == []
    index.close()
