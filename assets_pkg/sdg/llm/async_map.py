"""Many sources at once, results in order, memory bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 32


async def run_in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    consume: Callable[[Sequence[Result]], None],
    *,
    active: int,
    window: int,
) -> None:
    """Run ``work`` on up to ``active`` items at once, and ``consume`` the results in a thread, in the order of
    the items and in batches of a fixed size (so that what is made does not depend on timing). At most
    ``window`` items are begun and not yet consumed.

    When a piece of work raises, no more items are begun, those under way end by themselves, and the first
    error is raised. When cancelled, those under way are cancelled too.
    """
    line = _Line(work, active, window)
    feeder = asyncio.create_task(line.feed(items))
    try:
        batch: list[Result] = []
        while (task := await line.queue.get()) is not None:
            batch.append(await asyncio.shield(task))
            if len(batch) == BATCH:
                await asyncio.to_thread(consume, batch)
                batch = []
        await feeder
        await asyncio.to_thread(consume, batch)
    except asyncio.CancelledError:
        for task in line.begun:
            task.cancel()
        raise
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, *line.begun, return_exceptions=True)


class _Line(Generic[Item, Result]):
    """The items that were begun, in order; None ends it."""

    def __init__(self, work: Callable[[Item], Awaitable[Result]], active: int, window: int):
        self._work = work
        self._slots = asyncio.Semaphore(active)
        self._failed = False
        self.queue: asyncio.Queue[asyncio.Future[Result] | None] = asyncio.Queue(window)
        self.begun: set[asyncio.Future[Result]] = set()

    async def feed(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                await self._slots.acquire()
                if self._failed:
                    break
                await self.queue.put(self._begin(item))
        except Exception:
            await self.queue.put(None)
            raise
        await self.queue.put(None)

    def _begin(self, item: Item) -> asyncio.Future[Result]:
        task = asyncio.ensure_future(self._work(item))
        self.begun.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Result]) -> None:
        self.begun.discard(task)
        self._slots.release()
        if task.cancelled() or task.exception() is not None:
            self._failed = True
