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

from assets_pkg.nim.batching import LengthQueue, fixed_share
from assets_pkg.nim.model import Vectors
from assets_pkg.nim.observability import Metrics
from assets_pkg.nim.tokens import TokenIds

log = logging.getLogger(__name__)

RATE_WEIGHT = 0.05
"""The weight of the latest batch in the running estimates of tokens per second and of a batch's fixed cost."""

MAX_RETRY_AFTER_S = 30

BURST_WEIGHT = 0.05
"""The weight of the latest request in the running share of those that come in bursts."""

BURSTS = 0.5
"""A batch waits for more requests while more than this share of them come in bursts."""

USUAL_DECAY = 0.05
"""The share by which, with each batch, the usual number of open requests falls to the present one."""

MAX_REPLACED = 10
"""So many inference threads in a row may end without one batch done; then they are not replaced any more."""

Deliver = Callable[[Callable[[], None]], object]
"""Runs the function that resolves a batch's requests, in the thread that waits for them."""


class QueueFullError(Exception):
    """Too much work is queued for another request; ``retry_after_s``: when to try again, in seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


@dataclass(eq=False)
class QueuedRequest:
    """One request's texts in the queue.

    ``vectors`` resolves to float32 [texts, dimensions] in the order of the texts, or to the first failure.
    """

    result: Vectors
    remaining: int
    submitted: float
    waiting: deque[_QueuedText] = field(default_factory=deque)
    vectors: Future[Vectors] = field(default_factory=Future)
    started: bool = False


@dataclass(eq=False)
class _QueuedText:
    """One text: a row of token ids, and the index of its vector in the request's result."""

    ids: TokenIds
    request: QueuedRequest
    index: int
    order: int
    waiting: bool = True

    @property
    def length(self) -> int:
        return len(self.ids)


class Scheduler:
    """Threads that serve the waiting requests in rotation and fill each batch with texts of similar length.

    A batch is built around the oldest waiting text of the next request in the rotation, from texts of any request.
    So a short request does not wait behind every text of a large one. While all threads are busy the queue fills.
    When fewer requests are open than lately, a free thread waits up to ``gather_s`` for more, until its share of the
    usual number is there: a batch reads all weights once, however few texts are in it, but work for every thread
    matters more. It does so only while requests come in bursts, as from clients that ask again as soon as they are
    answered. To wait for requests that come one by one would take longer than a batch more, and delay them all.

    Args:
        run: embeds rows of token ids as one batch; called from many threads at once.
        max_wait_s: refuse a request when the work before it is expected to take longer.
        gather_s: how long a batch may wait for more requests, in seconds; a single client never waits.
        deliver: called once for a batch, with the function that resolves its requests.
        clock: seconds, for everything that is measured.
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
        clock: Callable[[], float] = time.monotonic,
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
        self._work_available = threading.Condition(self._lock)
        self._all_arrived = threading.Condition(self._lock)
        self._gathering = False
        self._open: set[QueuedRequest] = set()
        self._clock = clock
        self._usual = 0.0
        self._last_arrival = -math.inf
        self._bursts = 1.0
        self._batch_overhead_s = math.inf
        self._queue: LengthQueue[_QueuedText] = LengthQueue()
        self._rotation: OrderedDict[QueuedRequest, None] = OrderedDict()
        self._queued_tokens = 0
        self._next_order = 0
        self._tokens_per_second = math.inf
        self._closing = False
        self._replaced = 0
        self._threads: list[threading.Thread] = []
        with self._lock:  # a thread that ends at once is found in the list
            self._threads += [self._start(f"infer-{number}") for number in range(workers)]
        metrics.queued_tokens.set_function(lambda: self._queued_tokens)

    @property
    def healthy(self) -> bool:
        """Whether every thread is alive; one that ends by a fault is replaced, as long as that helps."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, rows: Sequence[TokenIds]) -> QueuedRequest:
        """Queue one request's rows of token ids, at least one.

        Raises:
            QueueFullError: too many tokens are waiting. An empty queue takes any request.
        """
        tokens = sum(len(row) for row in rows)
        now = self._clock()
        request = QueuedRequest(np.empty((len(rows), self._dimensions), np.float32), len(rows), now)
        with self._lock:
            self._admit(tokens)
            self._arrived(now)
            for index, ids in enumerate(rows):
                item = _QueuedText(ids, request, index, self._next_order)
                self._next_order += 1
                request.waiting.append(item)
                self._queue.add(item)
            self._queued_tokens += tokens
            self._rotation[request] = None
            self._open.add(request)
            self._usual = max(self._usual, len(self._open))
            self._wake_one()
        return request

    def cancel(self, request: QueuedRequest) -> None:
        """Withdraw a request whose client has left; texts in a running batch are still embedded."""
        with self._lock:
            self._withdraw(request)
        request.vectors.cancel()

    def close(self) -> None:
        """Finish the queue and end the threads."""
        with self._lock:
            self._closing = True
            self._work_available.notify_all()
            self._all_arrived.notify_all()
        for thread in self._threads:
            thread.join()

    def _wake_one(self) -> None:
        """Wake one thread for new work; it wakes the next if it leaves some."""
        if not self._gathering:
            self._work_available.notify()
        elif not self._more_may_come():
            self._all_arrived.notify()

    def _arrived(self, now: float) -> None:
        """Note whether the request belongs to a burst: whether the one before it could have waited for it at less than
        the fixed cost of a batch, shared by the threads."""
        in_burst = (now - self._last_arrival) * self._workers < self._batch_overhead_s
        self._bursts += BURST_WEIGHT * (in_burst - self._bursts)
        self._last_arrival = now

    def _admit(self, tokens: int) -> None:
        wait = self._queued_tokens / self._tokens_per_second
        overloaded = self._queued_tokens + tokens > self._max_tokens or wait > self._max_wait_s
        if self._queued_tokens and overloaded:
            raise QueueFullError(max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait))))

    def _start(self, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        batch: list[_QueuedText] = []
        try:
            while batch := self._next_batch():
                started = self._clock()
                self._run_batch(batch)
                self._observe(batch, started)
                self._replaced, batch = 0, []
        except BaseException as error:  # noqa: BLE001 - what ends a thread is logged, and the thread replaced
            self._replace(error, batch)

    def _replace(self, error: BaseException, batch: list[_QueuedText]) -> None:
        """Start a thread in place of this one, which ends by ``error``, and answer the requests in its batch."""
        ended = threading.current_thread()
        log.critical("inference thread %s ended", ended.name, exc_info=error)
        failure = RuntimeError("the inference thread ended")
        for request in {id(item.request): item.request for item in batch}.values():
            self._fail(request, failure)
        with self._lock:
            self._gathering = False
            self._replaced += 1
            if self._replaced > MAX_REPLACED:
                log.critical(
                    "%d inference threads have ended in a row: none is started any more", MAX_REPLACED
                )
                return
            self._metrics.threads_replaced.inc()
            self._threads[self._threads.index(ended)] = self._start(ended.name)

    def _next_batch(self) -> list[_QueuedText]:
        """Wait for the next batch; empty when the scheduler is closed."""
        with self._lock:
            if not self._await_work():
                return []
            request, _ = self._rotation.popitem(last=False)
            batch = self._queue.take_around(request.waiting[0], self._batch_tokens)
            for item in batch:
                self._mark_taken(item)
            if request.waiting:
                self._rotation[request] = None
            if self._rotation:
                self._work_available.notify()
            self._usual -= USUAL_DECAY * (self._usual - len(self._open))
            return batch

    def _await_work(self) -> bool:
        """Wait until texts are queued; False when the scheduler closes and none are left."""
        while True:
            if self._rotation and not self._gathering:
                self._gather()
                if self._rotation:
                    return True
            elif self._closing and not self._rotation:
                self._work_available.notify_all()
                return False
            else:
                self._work_available.wait()

    def _gather(self) -> None:
        """Wait up to ``gather_s`` for requests that can join the next batch."""
        self._gathering = True
        deadline = time.monotonic() + self._gather_s
        while self._more_may_come():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._all_arrived.wait(left)
        self._gathering = False

    def _more_may_come(self) -> bool:
        """Whether requests come in bursts, fewer than usual are open, and the batch is below one thread's share."""
        if self._bursts <= BURSTS:
            return False
        usual = int(self._usual)
        missing = len(self._open) < usual and len(self._rotation) < usual // self._workers
        return missing and self._queued_tokens < self._batch_tokens and not self._closing

    def _mark_taken(self, item: _QueuedText) -> None:
        item.waiting = False
        self._queued_tokens -= item.length
        request = item.request
        if not request.started:
            request.started = True
            self._metrics.queue_seconds.observe(self._clock() - request.submitted)
        while request.waiting and not request.waiting[0].waiting:
            request.waiting.popleft()
        if not request.waiting:
            self._rotation.pop(request, None)

    def _run_batch(self, batch: list[_QueuedText]) -> None:
        try:
            vectors = self._run([item.ids for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever a batch raises, its thread goes on
            if len(batch) == 1:
                self._fail(batch[0].request, error)
                return
            log.warning("a batch of %d texts failed and is repeated one by one: %s", len(batch), error)
            for item in batch:
                self._run_batch([item])
            return
        for item, vector in zip(batch, vectors, strict=True):
            item.request.result[item.index] = vector
        self._finish(batch)

    def _finish(self, batch: list[_QueuedText]) -> None:
        done: list[QueuedRequest] = []
        with self._lock:
            for item in batch:
                item.request.remaining -= 1
                if not item.request.remaining:
                    done.append(item.request)
            self._open.difference_update(done)
        if done:
            self._deliver(partial(_resolve, done))

    def _fail(self, request: QueuedRequest, error: Exception) -> None:
        with self._lock:
            self._withdraw(request)
        self._deliver(partial(_reject, request, error))

    def _withdraw(self, request: QueuedRequest) -> None:
        for item in request.waiting:
            if item.waiting:
                item.waiting = False
                self._queue.discard(item)
                self._queued_tokens -= item.length
        request.waiting.clear()
        self._rotation.pop(request, None)
        self._open.discard(request)

    def _observe(self, batch: list[_QueuedText], started: float) -> None:
        seconds = self._clock() - started
        tokens = sum(item.length for item in batch)
        longest = max(item.length for item in batch)
        rate = tokens / max(seconds, 1e-6) * len(self._threads)
        overhead = seconds * fixed_share(len(batch) * longest, self._batch_tokens)
        with self._lock:
            self._tokens_per_second = _follow(self._tokens_per_second, rate)
            self._batch_overhead_s = _follow(self._batch_overhead_s, overhead)
        metrics = self._metrics
        metrics.batch_seconds.observe(seconds)
        metrics.batch_rows.observe(len(batch))
        metrics.batch_fill.observe(tokens / (len(batch) * longest))
        metrics.tokens.inc(tokens)
        metrics.texts.inc(len(batch))


def _follow(known: float, latest: float) -> float:
    """The running estimate, infinite before the first value."""
    return latest if math.isinf(known) else known + RATE_WEIGHT * (latest - known)


def _resolve(done: Sequence[QueuedRequest]) -> None:
    for request in done:
        try:
            request.vectors.set_result(request.result)
        except InvalidStateError:  # cancelled, or failed by another of its texts
            continue


def _reject(request: QueuedRequest, error: Exception) -> None:
    try:
        request.vectors.set_exception(error)
    except InvalidStateError:
        log.debug("a finished request failed again")
