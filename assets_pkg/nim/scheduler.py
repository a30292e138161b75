"""Batching across requests: texts of many requests wait in one queue, and threads run them as batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from assets_pkg.nim.batching import LengthQueue
from assets_pkg.nim.model import Vectors
from assets_pkg.nim.observability import Metrics
from assets_pkg.nim.tokenize import TokenIds

log = logging.getLogger(__name__)

RATE_MEMORY = 0.05
"""The weight of the latest batch in the running estimate of tokens per second."""

MAX_RETRY_AFTER_S = 30

USUAL_MEMORY = 0.05
"""How fast, with each batch, the number of requests that are usual together sinks to those there are now."""

Deliver = Callable[[Callable[[], None]], object]
"""Runs what hands out a batch's answers, in the thread that waits for them."""


class QueueFullError(Exception):
    """The request would wait behind too much work; ``retry_after_s`` is when there should be room."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class QueuedRequest:
    """One request's texts on their way through the queue.

    ``vectors`` resolves to float32 [texts, dimensions] in the order given, or to the first failure.
    """

    result: Vectors
    remaining: int
    submitted: float
    waiting: deque[_Item] = field(default_factory=deque)
    vectors: Future[Vectors] = field(default_factory=Future)
    started: bool = False


@dataclass(eq=False)
class _Item:
    """One text: a row of token ids, and where its vector goes."""

    ids: TokenIds
    job: QueuedRequest
    index: int
    order: int
    waits: bool = True

    @property
    def length(self) -> int:
        return len(self.ids)


class Scheduler:
    """Threads that take turns at the requests waiting, and fill each batch with texts of like length.

    A batch is made around the oldest waiting text of the request whose turn it is, from texts of any request.
    Turns keep a short request from waiting behind every text of a large one. While all threads are busy the
    queue fills by itself. When fewer requests are here than usual of late, a free thread gives the others a
    moment (``gather_s``) to come, up to its share of them: a batch reads all weights once, however few texts
    are in it, but threads that all find work are better still.

    Args:
        run: embeds rows of token ids as one batch; called from many threads at once.
        max_wait_s: refuse a request when the work before it is expected to take longer.
        gather_s: how long a batch may wait for company; a client that is alone never waits.
        deliver: called once for a batch, with the function that resolves its requests.
    """

    def __init__(
        self,
        run: Callable[[Sequence[TokenIds]], Vectors],
        dimensions: int,
        *,
        workers: int,
        batch_tokens: int,
        max_tokens: int,
        max_wait_s: float,
        metrics: Metrics,
        gather_s: float = 0.0,
        deliver: Deliver = lambda resolve: resolve(),
    ) -> None:
        self._run = run
        self._dimensions = dimensions
        self._batch_tokens = batch_tokens
        self._max_tokens = max_tokens
        self._max_wait_s = max_wait_s
        self._metrics = metrics
        self._workers = workers
        self._gather_s = gather_s
        self._deliver = deliver
        self._lock = threading.Lock()
        self._work_waits = threading.Condition(self._lock)
        self._nobody_missing = threading.Condition(self._lock)
        self._gathering = False
        self._open: set[QueuedRequest] = set()
        self._usual = 0.0
        self._queue: LengthQueue[_Item] = LengthQueue()
        self._turns: OrderedDict[QueuedRequest, None] = OrderedDict()
        self._queued_tokens = 0
        self._next_order = 0
        self._tokens_per_second = math.inf
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()
        metrics.queued_tokens.set_function(lambda: self._queued_tokens)

    @property
    def healthy(self) -> bool:
        """Whether every thread is alive."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, rows: Sequence[TokenIds]) -> QueuedRequest:
        """Queue one request's rows of token ids, at least one.

        Raises:
            QueueFullError: too many tokens are waiting. An empty queue takes any request.
        """
        tokens = sum(len(row) for row in rows)
        job = QueuedRequest(np.empty((len(rows), self._dimensions), np.float32), len(rows), time.monotonic())
        with self._lock:
            self._admit(tokens)
            for index, ids in enumerate(rows):
                item = _Item(ids, job, index, self._next_order)
                self._next_order += 1
                job.waiting.append(item)
                self._queue.add(item)
            self._queued_tokens += tokens
            self._turns[job] = None
            self._open.add(job)
            self._usual = max(self._usual, len(self._open))
            self._wake_one()
        return job

    def cancel(self, job: QueuedRequest) -> None:
        """Take back a job whose answer nobody waits for; what already runs is run to its end."""
        with self._lock:
            self._withdraw(job)
        job.vectors.cancel()

    def close(self) -> None:
        """End the threads once the queue is empty."""
        with self._lock:
            self._closing = True
            self._work_waits.notify_all()
            self._nobody_missing.notify_all()
        for thread in self._threads:
            thread.join()

    def _wake_one(self) -> None:
        """Wake the one thread that has to know of new work; it wakes the next if it leaves some."""
        if not self._gathering:
            self._work_waits.notify()
        elif not self._more_may_come():
            self._nobody_missing.notify()

    def _admit(self, tokens: int) -> None:
        wait = self._queued_tokens / self._tokens_per_second
        crowded = self._queued_tokens + tokens > self._max_tokens or wait > self._max_wait_s
        if self._queued_tokens and crowded:
            raise QueueFullError(max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait))))

    def _work(self) -> None:
        while batch := self._take():
            started = time.monotonic()
            self._run_batch(batch)
            self._observe(batch, started)

    def _take(self) -> list[_Item]:
        """Wait for the next batch; an empty one means that the scheduler is closed."""
        with self._lock:
            if not self._await_turn():
                return []
            job, _ = self._turns.popitem(last=False)
            batch = self._queue.take_around(job.waiting[0], self._batch_tokens)
            for item in batch:
                self._mark_taken(item)
            if job.waiting:
                self._turns[job] = None
            if self._turns:
                self._work_waits.notify()
            self._usual -= USUAL_MEMORY * (self._usual - len(self._open))
            return batch

    def _await_turn(self) -> bool:
        """Wait until there is a batch to make; False when there will be none because the scheduler closes."""
        while True:
            if self._turns and not self._gathering:
                self._gather()
                if self._turns:
                    return True
            elif self._closing and not self._turns:
                self._work_waits.notify_all()
                return False
            else:
                self._work_waits.wait()

    def _gather(self) -> None:
        """Give requests that are on their way a moment to join the batch about to be made."""
        self._gathering = True
        deadline = time.monotonic() + self._gather_s
        while self._more_may_come():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._nobody_missing.wait(left)
        self._gathering = False

    def _more_may_come(self) -> bool:
        """Whether some are missing, and this batch has not yet the share of one thread among all."""
        usual = int(self._usual)
        missing = len(self._open) < usual and len(self._turns) < usual // self._workers
        return missing and self._queued_tokens < self._batch_tokens and not self._closing

    def _mark_taken(self, item: _Item) -> None:
        item.waits = False
        self._queued_tokens -= item.length
        job = item.job
        if not job.started:
            job.started = True
            self._metrics.queue_seconds.observe(time.monotonic() - job.submitted)
        while job.waiting and not job.waiting[0].waits:
            job.waiting.popleft()
        if not job.waiting:
            self._turns.pop(job, None)

    def _run_batch(self, batch: list[_Item]) -> None:
        try:
            vectors = self._run([item.ids for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever a batch raises, its thread lives on
            if len(batch) == 1:
                self._fail(batch[0].job, error)
                return
            log.warning("a batch of %d texts failed and is run again one by one: %s", len(batch), error)
            for item in batch:
                self._run_batch([item])
            return
        for item, vector in zip(batch, vectors, strict=True):
            item.job.result[item.index] = vector
        self._finish(batch)

    def _finish(self, batch: list[_Item]) -> None:
        done: list[QueuedRequest] = []
        with self._lock:
            for item in batch:
                item.job.remaining -= 1
                if not item.job.remaining:
                    done.append(item.job)
            self._open.difference_update(done)
        if done:
            self._deliver(partial(_resolve, done))

    def _fail(self, job: QueuedRequest, error: Exception) -> None:
        with self._lock:
            self._withdraw(job)
        self._deliver(partial(_reject, job, error))

    def _withdraw(self, job: QueuedRequest) -> None:
        for item in job.waiting:
            if item.waits:
                item.waits = False
                self._queue.discard(item)
                self._queued_tokens -= item.length
        job.waiting.clear()
        self._turns.pop(job, None)
        self._open.discard(job)

    def _observe(self, batch: list[_Item], started: float) -> None:
        seconds = time.monotonic() - started
        tokens = sum(item.length for item in batch)
        rate = tokens / max(seconds, 1e-6) * len(self._threads)
        with self._lock:
            known = self._tokens_per_second
            self._tokens_per_second = rate if math.isinf(known) else known + RATE_MEMORY * (rate - known)
        metrics = self._metrics
        metrics.batch_seconds.observe(seconds)
        metrics.batch_rows.observe(len(batch))
        metrics.batch_fill.observe(tokens / (len(batch) * max(item.length for item in batch)))
        metrics.tokens.inc(tokens)
        metrics.texts.inc(len(batch))


def _resolve(done: Sequence[QueuedRequest]) -> None:
    for job in done:
        try:
            job.vectors.set_result(job.result)
        except InvalidStateError:  # cancelled, or failed by another of its texts
            continue


def _reject(job: QueuedRequest, error: Exception) -> None:
    try:
        job.vectors.set_exception(error)
    except InvalidStateError:
        log.debug("a request that is over already failed again")
