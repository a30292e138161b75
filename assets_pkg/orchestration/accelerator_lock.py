"""One step at a time on this machine's accelerator, whatever runs beside it.

Dagster's pool decides whose turn it is and shows who waits. It looks for a free slot and takes it in two statements,
each committed by itself (``SqlEventLogStorage.claim_concurrency_slot``, on SQLite and on PostgreSQL alike), so two
steps that ask within the same milliseconds can both be let in. A step therefore also holds a lock on a file of this
machine, which the system frees if its process is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

LOOK_EVERY_SECONDS = 0.25


@contextmanager
def turn_in(pool: str, instance: dg.DagsterInstance, told: Callable[[str], None]) -> Iterator[None]:
    """Hold one of as many turns as ``pool`` has slots; a pool without a limit has no turns.

    Args:
        told: hears that the step waits, if it does.
    """
    limit = instance.event_log_storage.get_concurrency_info(pool).limit
    if not limit or instance.is_ephemeral:
        yield
        return
    folder = Path(instance.root_directory)
    with _first_free([FileLock(folder / f".{pool}-{slot}.lock") for slot in range(limit)], told):
        yield


def _first_free(locks: list[FileLock], told: Callable[[str], None]) -> AbstractContextManager[object]:
    held = _free(locks)
    if held is None:
        told("another step has the accelerator: waiting for it")
    while held is None:
        time.sleep(LOOK_EVERY_SECONDS)
        held = _free(locks)
    return held


def _free(locks: list[FileLock]) -> AbstractContextManager[object] | None:
    for lock in locks:
        with suppress(Timeout):
            return lock.acquire(blocking=False)
    return None
