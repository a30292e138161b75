"""A signal while a job is being started."""

from __future__ import annotations

import signal
import threading

import pytest

from resources.compute.interrupts import started


def test_a_job_that_is_interrupted_while_it_starts_is_ended() -> None:
    happened: list[str] = []

    def start() -> str:
        signal.raise_signal(signal.SIGINT)
        happened.append("started")
        return "job 7"

    with pytest.raises(KeyboardInterrupt):
        started(start, lambda handle: happened.append(f"ended {handle}"))
    assert happened == ["started", "ended job 7"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_start_that_fails_ends_nothing() -> None:
    def start() -> str:
        raise OSError("no such place")

    def cancel(handle: str) -> None:
        raise AssertionError(handle)

    with pytest.raises(OSError, match="no such place"):
        started(start, cancel)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_starts_jobs_too() -> None:
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(started(lambda: "job 7", got.append)))
    thread.start()
    thread.join()
    assert got == ["job 7"]
