"""Requests that share threads: rotation, batches, failures, cancelled clients and limits, one step at a time.

The model is a stand-in that blocks until the test lets it run, so nothing here depends on time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from assets_pkg.nim.model import Vectors
from assets_pkg.nim.observability import Metrics
from assets_pkg.nim.scheduler import QueuedRequest, QueueFullError, Scheduler
from assets_pkg.nim.tokens import TokenIds

POISON = 666
PATIENCE_S = 30


class StepModel:
    """Embeds a row as [its first id, its length]; each batch waits for `release`."""

    def __init__(self) -> None:
        self.batches: queue.Queue[list[list[int]]] = queue.Queue()
        self._permits = threading.Semaphore(0)

    def run(self, rows: Sequence[TokenIds]) -> Vectors:
        self.batches.put([row.tolist() for row in rows])
        assert self._permits.acquire(timeout=PATIENCE_S)
        if any(POISON in row for row in rows):
            raise ValueError("poisoned")
        return np.array([[row[0], len(row)] for row in rows], dtype=np.float32)

    def started(self) -> list[list[int]]:
        """The next batch to have started, as (first id, length) of each row."""
        return [[row[0], len(row)] for row in self.batches.get(timeout=PATIENCE_S)]

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._permits.release()


@pytest.fixture
def model() -> StepModel:
    return StepModel()


@pytest.fixture
def scheduler(model: StepModel) -> Generator[Scheduler]:
    made = make_scheduler(model)
    yield made
    model.release(1000)
    made.close()


def make_scheduler(model: StepModel, **changes: Any) -> Scheduler:
    """One thread and small batches, with changes."""
    small = {"workers": 1, "batch_tokens": 40, "max_tokens": 200, "max_wait_s": 1e9, "metrics": Metrics()}
    return Scheduler(model.run, 2, **(small | changes))


def rows(*shapes: tuple[int, int]) -> list[TokenIds]:
    """Rows of (id, length)."""
    return [np.full(length, number, dtype=np.int64) for number, length in shapes]


def test_answers_come_in_the_order_given(scheduler: Scheduler, model: StepModel) -> None:
    shapes = [(number, 1 + (number * 7) % 30) for number in range(20)]
    job = scheduler.submit(rows(*shapes))
    model.release(100)
    assert job.vectors.result(PATIENCE_S).tolist() == [list(shape) for shape in shapes]


def test_texts_of_several_requests_share_a_batch(scheduler: Scheduler, model: StepModel) -> None:
    busy = scheduler.submit(rows((1, 5)))
    assert model.started() == [[1, 5]]
    jobs = [scheduler.submit(rows((number, 8))) for number in (2, 3, 4)]
    model.release(2)
    assert sorted(model.started()) == [[2, 8], [3, 8], [4, 8]]
    assert [job.vectors.result(PATIENCE_S).tolist() for job in jobs] == [[[2, 8]], [[3, 8]], [[4, 8]]]
    assert busy.vectors.done()


def test_an_idle_thread_does_not_wait_for_company(scheduler: Scheduler, model: StepModel) -> None:
    scheduler.submit(rows((1, 3)))
    assert model.started() == [[1, 3]]


def test_a_short_request_does_not_wait_for_all_of_a_large_one(scheduler: Scheduler, model: StepModel) -> None:
    large = scheduler.submit(rows(*[(1, 30)] * 6))
    model.started()
    small = scheduler.submit(rows((2, 4)))
    model.release(3)
    assert small.vectors.result(PATIENCE_S).tolist() == [[2, 4]]
    assert not large.vectors.done()


def test_one_bad_text_fails_alone(scheduler: Scheduler, model: StepModel) -> None:
    scheduler.submit(rows((1, 5)))
    model.started()
    good, bad, fine = (scheduler.submit(rows((number, 8))) for number in (2, POISON, 3))
    model.release(10)
    assert good.vectors.result(PATIENCE_S).tolist() == [[2, 8]]
    assert fine.vectors.result(PATIENCE_S).tolist() == [[3, 8]]
    with pytest.raises(ValueError, match="poisoned"):
        bad.vectors.result(PATIENCE_S)
    assert scheduler.healthy
    again = scheduler.submit(rows((4, 8)))
    assert again.vectors.result(PATIENCE_S).tolist() == [[4, 8]]


def test_the_rest_of_a_failed_request_is_not_run(scheduler: Scheduler, model: StepModel) -> None:
    bad = scheduler.submit(rows((POISON, 40), (1, 39), (1, 38)))
    model.started()
    model.release()
    with pytest.raises(ValueError, match="poisoned"):
        bad.vectors.result(PATIENCE_S)
    scheduler.submit(rows((2, 7)))
    model.release()
    assert model.started() == [[2, 7]]


def test_a_cancelled_request_leaves_the_queue(scheduler: Scheduler, model: StepModel) -> None:
    scheduler.submit(rows((1, 5)))
    model.started()
    left = scheduler.submit(rows((2, 8), (2, 40)))
    kept = scheduler.submit(rows((3, 8)))
    scheduler.cancel(left)
    model.release(2)
    assert model.started() == [[3, 8]]
    assert kept.vectors.result(PATIENCE_S).tolist() == [[3, 8]]
    with pytest.raises(CancelledError):
        left.vectors.result(PATIENCE_S)


def test_a_request_cancelled_while_it_runs_harms_nobody(scheduler: Scheduler, model: StepModel) -> None:
    scheduler.submit(rows((1, 5)))
    model.started()
    left, kept = scheduler.submit(rows((2, 8), (2, 40))), scheduler.submit(rows((3, 8)))
    model.release()
    assert sorted(model.started()) == [[2, 8], [3, 8]]
    scheduler.cancel(left)
    scheduler.cancel(left)
    model.release()
    assert kept.vectors.result(PATIENCE_S).tolist() == [[3, 8]]
    last = scheduler.submit(rows((4, 9)))
    model.release()
    assert model.started() == [[4, 9]]
    assert last.vectors.result(PATIENCE_S).tolist() == [[4, 9]]


def test_a_full_queue_refuses_and_recovers(scheduler: Scheduler, model: StepModel) -> None:
    running = scheduler.submit(rows((1, 40)))
    model.started()
    waiting = scheduler.submit(rows(*[(2, 40)] * 5))
    with pytest.raises(QueueFullError) as refusal:
        scheduler.submit(rows((3, 1)))
    assert 1 <= refusal.value.retry_after_s <= 30
    model.release(6)
    waiting.vectors.result(PATIENCE_S)
    model.release()
    assert scheduler.submit(rows((3, 1))).vectors.result(PATIENCE_S).tolist() == [[3, 1]]
    assert running.vectors.done()


def test_an_empty_queue_takes_a_request_of_any_size(scheduler: Scheduler, model: StepModel) -> None:
    job = scheduler.submit(rows(*[(1, 50)] * 10))
    model.release(10)
    assert len(job.vectors.result(PATIENCE_S)) == 10


class Clock:
    """Seconds that pass only when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gathering(model: StepModel, clock: Clock) -> Generator[Scheduler]:
    """One thread, which waits for more requests longer than any test runs."""
    made = make_scheduler(model, gather_s=1e9, clock=clock)
    yield made
    model.release(1000)
    made.close()


def test_a_client_that_is_alone_never_waits(gathering: Scheduler, model: StepModel) -> None:
    for number in range(1, 6):
        job = gathering.submit(rows((number, 5)))
        assert model.started() == [[number, 5]]
        model.release()
        job.vectors.result(PATIENCE_S)


def _three_clients(scheduler: Scheduler, model: StepModel) -> None:
    """Three requests together, answered: that is usual from now on."""
    jobs = [scheduler.submit(rows((number, 5))) for number in (1, 2, 3)]
    model.release(3)
    for job in jobs:
        job.vectors.result(PATIENCE_S)
    while not model.batches.empty():
        model.batches.get()


def test_a_batch_waits_for_the_clients_that_are_usual(gathering: Scheduler, model: StepModel) -> None:
    _three_clients(gathering, model)
    first, second = gathering.submit(rows((4, 5))), gathering.submit(rows((5, 5)))
    with pytest.raises(queue.Empty):
        model.batches.get(timeout=0.2)
    third = gathering.submit(rows((6, 5)))
    assert sorted(model.started()) == [[4, 5], [5, 5], [6, 5]]
    model.release()
    for job in (first, second, third):
        job.vectors.result(PATIENCE_S)


def _requests_come(scheduler: Scheduler, model: StepModel, clock: Clock, every: float) -> None:
    """Batches of a second, of which the fixed cost is 0.24 s; then many requests in a row, which are withdrawn."""
    for _ in range(30):
        job = scheduler.submit(rows((1, 5)))
        model.started()
        clock.now += 1
        model.release()
        job.vectors.result(PATIENCE_S)
    running = scheduler.submit(rows((1, 5)))
    model.started()
    clock.now += 1
    others: list[QueuedRequest] = []
    for _ in range(30):
        others.append(scheduler.submit(rows((2, 5))))
        clock.now += every
    for job in others:
        scheduler.cancel(job)
    model.release()
    running.vectors.result(PATIENCE_S)


def test_a_batch_waits_for_the_rest_of_a_burst(gathering: Scheduler, model: StepModel, clock: Clock) -> None:
    _requests_come(gathering, model, clock, every=0.05)
    gathering.submit(rows((4, 5)))
    with pytest.raises(queue.Empty):
        model.batches.get(timeout=0.2)


def test_a_batch_waits_for_nobody_where_requests_come_one_by_one(
    gathering: Scheduler, model: StepModel, clock: Clock
) -> None:
    """To wait for the next would take longer than to embed it in a batch of its own."""
    _requests_come(gathering, model, clock, every=1)
    gathering.submit(rows((4, 5)))
    assert model.started() == [[4, 5]]


def test_as_many_clients_as_threads_wait_for_nobody(model: StepModel, clock: Clock) -> None:
    """Each has a thread of its own: together in one batch they would leave the other threads idle."""
    scheduler = make_scheduler(model, workers=3, gather_s=1e9, clock=clock)
    _three_clients(scheduler, model)
    scheduler.submit(rows((4, 5)))
    assert model.started() == [[4, 5]]
    model.release(10)
    scheduler.close()


def test_a_full_batch_waits_for_nobody(gathering: Scheduler, model: StepModel) -> None:
    _three_clients(gathering, model)
    gathering.submit(rows((4, 40)))
    assert model.started() == [[4, 40]]


def test_closing_waits_for_nobody(gathering: Scheduler, model: StepModel) -> None:
    _three_clients(gathering, model)
    left = gathering.submit(rows((4, 5)))
    model.release()
    gathering.close()
    assert left.vectors.result(0).tolist() == [[4, 5]]


def test_answers_of_a_batch_are_delivered_together(model: StepModel) -> None:
    deliveries: queue.Queue[Callable[[], None]] = queue.Queue()
    scheduler = make_scheduler(model, deliver=deliveries.put)
    scheduler.submit(rows((1, 5)))
    model.started()
    jobs = [scheduler.submit(rows((number, 8))) for number in (2, 3)]
    model.release(2)
    deliveries.get(timeout=PATIENCE_S)()
    resolve = deliveries.get(timeout=PATIENCE_S)
    assert not any(job.vectors.done() for job in jobs)
    resolve()
    assert [job.vectors.result(0).tolist() for job in jobs] == [[[2, 8]], [[3, 8]]]
    scheduler.close()


def test_close_finishes_what_is_queued(model: StepModel) -> None:
    scheduler = make_scheduler(model, workers=2, max_tokens=10_000)
    jobs = [scheduler.submit(rows((number, 30))) for number in range(10)]
    model.release(10)
    scheduler.close()
    assert [job.vectors.result(0).tolist() for job in jobs] == [[[number, 30]] for number in range(10)]
    assert not scheduler.healthy


def test_many_threads_of_requests_and_cancellations(model: StepModel) -> None:
    """No request is lost or mixed up, and the count of waiting tokens ends at zero."""
    model.release(100_000)
    metrics = Metrics()
    scheduler = make_scheduler(
        model, workers=4, batch_tokens=64, max_tokens=10**9, metrics=metrics, gather_s=0.001
    )
    wrong: list[object] = []

    def client(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            shapes = [
                (int(random.integers(1, 600)), int(random.integers(1, 70)))
                for _ in range(random.integers(1, 9))
            ]
            job = scheduler.submit(rows(*shapes))
            if random.random() < 0.3:
                scheduler.cancel(job)
            elif job.vectors.result(PATIENCE_S).tolist() != [list(shape) for shape in shapes]:
                wrong.append(shapes)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    scheduler.close()
    assert wrong == []
    assert b"retune_queued_tokens 0.0" in metrics.text()
