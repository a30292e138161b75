"""Which old versions may go: never what is linked, recorded as current, pinned by promotion, or served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from assets_pkg.door import ARTIFACT_KEY
from storage.artifact_store import ArtifactStore


@dataclass(frozen=True)
class Removal:
    """One version that nothing needs any more."""

    asset: str
    version: str
    size: int


def find_removals(store: ArtifactStore, instance: dg.DagsterInstance, keep: int) -> Iterator[Removal]:
    """Versions beyond the newest ``keep`` of each asset that nothing points at."""
    needed = store.linked() | _current(store, instance)
    for asset in store.assets():
        for version in store.versions(asset)[keep:]:
            if (asset, version) not in needed:
                yield Removal(asset, version, store.size(asset, version))


def _current(store: ArtifactStore, instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """What the latest materialization of every asset recorded, the promoted model and the served one included."""
    found: set[tuple[str, str]] = set()
    for key in instance.get_asset_keys():
        event = instance.get_latest_materialization_event(key)
        if event and event.asset_materialization and ARTIFACT_KEY in event.asset_materialization.metadata:
            recorded = str(event.asset_materialization.metadata[ARTIFACT_KEY].value)
            asset, _, version = recorded.partition("/")
            found.add((asset, version))
    return found
