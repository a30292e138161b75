"""What the history of runs has recorded of an asset: its latest materialization, and what that says of the artifact.

Whoever asks the instance about an asset asks here. What is asked about runs, pools or sensors is not here.
"""

from __future__ import annotations

from typing import NamedTuple

import dagster as dg

from storage.artifact_store import ArtifactStore

ARTIFACT_KEY = "retune/artifact"
SETTINGS_KEY = "retune/settings"
DATA_VERSION_TAG = "dagster/data_version"
INPUT_VERSION_TAG = "dagster/input_data_version/"
"""Followed by an input's name."""


class ArtifactRef(NamedTuple):
    """Names an artifact of a store, as a materialization records it."""

    asset: str
    version: str

    def __str__(self) -> str:
        return f"{self.asset}/{self.version}"


def latest(instance: dg.DagsterInstance, asset: str | dg.AssetKey) -> dg.AssetMaterialization | None:
    """The latest materialization of ``asset``; None if it was never materialized."""
    key = asset if isinstance(asset, dg.AssetKey) else dg.AssetKey(asset)
    event = instance.get_latest_materialization_event(key)
    return None if event is None else event.asset_materialization


def latest_record(instance: dg.DagsterInstance, asset: str) -> dg.EventLogRecord | None:
    """The latest materialization of ``asset`` with its event id (``storage_id``) and time (seconds since the epoch)."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
    return records[0] if records else None


def data_version(materialization: dg.AssetMaterialization) -> str:
    """The data version that a materialization recorded."""
    return (materialization.tags or {})[DATA_VERSION_TAG]


def input_version(materialization: dg.AssetMaterialization, asset: str) -> str | None:
    """The data version of the input ``asset`` from which it was made; None if it had no such input."""
    return (materialization.tags or {}).get(f"{INPUT_VERSION_TAG}{asset}")


def artifact_ref(materialization: dg.AssetMaterialization) -> ArtifactRef | None:
    """The artifact that a materialization recorded; None where it recorded none."""
    recorded = materialization.metadata.get(ARTIFACT_KEY)
    if recorded is None:
        return None
    asset, _, version = str(recorded.value).partition("/")
    return ArtifactRef(asset, version)


def is_in(store: ArtifactStore, materialization: dg.AssetMaterialization) -> bool:
    """Whether ``store`` has the recorded artifact, if there is one: a history may know of several artifact roots."""
    recorded = artifact_ref(materialization)
    return recorded is None or store.has(*recorded)
