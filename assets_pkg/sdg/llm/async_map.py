"""A concurrent map whose results are consumed in order, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 32


async def map_ordered(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    consume: Callable[[Sequence[Result]], None],
    *,
    active: int,
    window: int,
) -> None:
    """Run ``work`` on up to ``active`` items at once, and ``consume`` the results in a thread, in the order of
    the items and in batches of a fixed size (so that the output does not depend on timing). At most ``window``
    items are started and not yet consumed.

    When ``work`` raises, no more items are started, the running ones complete, and the first error is raised. On
    cancellation the running ones are cancelled too.
    """
    tasks = _Window(work, active, window)
    feeder = asyncio.create_task(tasks.feed(items))
    try:
        batch: list[Result] = []
        while (task := await tasks.queue.get()) is not None:
            batch.append(await asyncio.shield(task))
            if len(batch) == BATCH:
                await asyncio.to_thread(consume, batch)
                batch = []
        await feeder
        await asyncio.to_thread(consume, batch)
    except asyncio.CancelledError:
        for task in tasks.running:
            task.cancel()
        raise
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, *tasks.running, return_exceptions=True)


class _Window(Generic[Item, Result]):
    """The started tasks: all in ``running``, and in order in ``queue``, which ends with None."""

    def __init__(self, work: Callable[[Item], Awaitable[Result]], active: int, window: int):
        self._work = work
        self._slots = asyncio.Semaphore(active)
        self._failed = False
        self.queue: asyncio.Queue[asyncio.Future[Result] | None] = asyncio.Queue(window)
        self.running: set[asyncio.Future[Result]] = set()

    async def feed(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                await self._slots.acquire()
                if self._failed:
                    break
                await self.queue.put(self._start(item))
        except Exception:
            await self.queue.put(None)
            raise
        await self.queue.put(None)

    def _start(self, item: Item) -> asyncio.Future[Result]:
        task = asyncio.ensure_future(self._work(item))
        self.running.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Future[Result]) -> None:
        self.running.discard(task)
        self._slots.release()
        if task.cancelled() or task.exception() is not None:
            self._failed = True
