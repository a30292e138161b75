"""Somebody else at work on this machine's accelerator, for a project's steps to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from assets_pkg.instance import GPU_POOL
from tests.command.conftest import Workplace


@contextmanager
def busy_accelerator(place: Workplace) -> Iterator[dg.DagsterInstance]:
    """The history of a project in which another run has taken the one turn there is."""
    reference = InstanceRef.from_dir(str(place.home / ".dagster"))
    with dg.DagsterInstance.from_ref(reference) as instance:
        history = instance.event_log_storage
        history.initialize_concurrency_limit_to_default(GPU_POOL)
        assert history.claim_concurrency_slot(GPU_POOL, "another-run", "its-step").is_claimed
        yield instance
        history.free_concurrency_slots_for_run("another-run")
