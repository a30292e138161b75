"""Dagster's judgement of which assets are missing, stale or fresh, and why.

It is what the UI shows, but no public API. ``tests/test_stale_status.py`` fails when a version of Dagster changes what
is used here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    StaleCauseCategory,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.event_log.base import AssetRecord

Status = Literal["missing", "stale", "fresh"]
STATUSES: dict[StaleStatus, Status] = {
    StaleStatus.MISSING: "missing",
    StaleStatus.STALE: "stale",
    StaleStatus.FRESH: "fresh",
}


@dataclass(frozen=True)
class StaleCause:
    """Why an asset is stale: its code version changed (``code_changed``), or the direct parent ``parent`` changed, or
    something else, for which there is only Dagster's own ``reason``."""

    code_changed: bool
    parent: str | None
    reason: str


class StaleStatuses:
    """The statuses of all assets of ``defs`` by the history of ``instance``, each looked up once."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        graph, context = defs.resolve_asset_graph(), LoadingContextForTest(instance)
        AssetRecord.prepare(context, graph.get_all_asset_keys())  # one query, not one for each asset
        self._resolver = CachingStaleStatusResolver(instance, graph, context)

    def status(self, key: dg.AssetKey) -> Status:
        """Compared with its direct parents only: below a stale asset others may still be fresh."""
        return STATUSES[self._resolver.get_status(key)]

    def causes(self, key: dg.AssetKey) -> Iterator[StaleCause]:
        """Why the asset is stale; nothing for others."""
        for cause in self._resolver.get_stale_causes(key):
            parent = cause.dependency.asset_key.to_user_string() if cause.dependency is not None else None
            yield StaleCause(cause.category == StaleCauseCategory.CODE, parent, cause.reason)
