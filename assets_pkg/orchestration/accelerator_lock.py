"""The lock on this machine's accelerator: as many steps at a time as its pool has slots, one by default.

Dagster's pool queues the steps and shows which of them wait. It looks for a free slot and claims it in two statements,
each committed by itself (``SqlEventLogStorage.claim_concurrency_slot``, on SQLite and on PostgreSQL alike), so two
steps that ask within the same milliseconds can both be given the slot. A step therefore also locks a file of this
machine, which the system unlocks if its process is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

POLL_SECONDS = 0.25


@contextmanager
def accelerator_lock(pool: str, instance: dg.DagsterInstance, note: Callable[[str], None]) -> Iterator[None]:
    """Hold one of as many locks as ``pool`` has slots; a pool without a limit needs none.

    Args:
        note: called with a message if the step has to wait.
    """
    limit = instance.event_log_storage.get_concurrency_info(pool).limit
    if not limit or instance.is_ephemeral:
        yield
        return
    folder = Path(instance.root_directory)
    with _acquire_one([FileLock(folder / f".{pool}-{slot}.lock") for slot in range(limit)], note):
        yield


def _acquire_one(locks: list[FileLock], note: Callable[[str], None]) -> AbstractContextManager[object]:
    held = _try_each(locks)
    if held is None:
        note("another step is using the accelerator: waiting")
    while held is None:
        time.sleep(POLL_SECONDS)
        held = _try_each(locks)
    return held


def _try_each(locks: list[FileLock]) -> AbstractContextManager[object] | None:
    for lock in locks:
        with suppress(Timeout):
            return lock.acquire(blocking=False)
    return None
