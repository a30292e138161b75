"""What the history of runs has recorded of an asset: its latest materialization, and what that says of the artifact.

Whoever asks the instance about an asset asks here, by its key, or by its name in a graph without a key prefix. What is
asked about runs, pools or sensors is not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import dagster as dg

from assets_pkg.config.profile import later_settings
from assets_pkg.orchestration.names import UNPREFIXED
from storage.artifact_store import ArtifactStore

ARTIFACT_KEY = "retune/artifact"
SETTINGS_KEY = "retune/settings"
REUSED_KEY = "retune/reused"
"""Whether the artifact had been made before, from the same inputs."""

STORE_KEY = "retune/store"
DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
INPUT_VERSION_TAG = "dagster/input_data_version/"
INPUT_EVENT_TAG = "dagster/input_event_pointer/"
"""Both followed by an input's name."""

DEFAULT_DATA_VERSION = "INITIAL"

PLANNED_TAG = ".dagster/retune_planned_with"
"""On a run: its id, and the events that its plan was made with. A re-executed run gets its tags, but has another id."""

PAGE = 20


class ArtifactRef(NamedTuple):
    """Names an artifact of a store, as a materialization records it."""

    asset: str
    version: str

    def __str__(self) -> str:
        return f"{self.asset}/{self.version}"


def latest(
    instance: dg.DagsterInstance, asset: str | dg.AssetKey, store: ArtifactStore | None = None
) -> dg.AssetMaterialization | None:
    """The latest materialization of ``asset``, of those in ``store`` if one is given; None if there is none."""
    record = latest_record(instance, asset, store)
    return None if record is None else record.asset_materialization


def visible_to(
    instance: dg.DagsterInstance,
    run_id: str,
    asset: str | dg.AssetKey,
    store: ArtifactStore | None = None,
) -> dg.EventLogRecord | None:
    """The materialization of ``asset`` that a run works with: its own, or that of the run it re-executes, else the
    latest when it was planned (or began, if it had no plan). What other runs make meanwhile is not seen, so that runs
    at once do not mix, nor is what is recorded of another artifact root than ``store``, if one is given."""
    run = instance.get_run_record_by_id(run_id)
    if run is None:
        return latest_record(instance, asset, store)
    earlier = {run.dagster_run.parent_run_id, run.dagster_run.root_run_id} - {None, run_id}
    began = run.start_time or run.create_timestamp.timestamp()
    planned = _planned_with(run.dagster_run)
    newest = None if planned is None else planned.get(_key(asset).to_user_string(), 0)
    before: dg.EventLogRecord | None = None
    for record in _in_store(_newest_first(instance, asset), store):
        if record.run_id == run_id or record.run_id in earlier:
            return record
        if (record.timestamp < began) if newest is None else (record.storage_id <= newest):
            before = before or record
            if not earlier:
                break
    return before


def planned_tag(run_id: str, events: Mapping[str, int]) -> dict[str, str]:
    """The tag that lets a run work with what its plan was made with.

    Args:
        events: the id of the latest materialization of each asset.
    """
    return {PLANNED_TAG: json.dumps([run_id, dict(events)])}


def _planned_with(run: dg.DagsterRun) -> Mapping[str, int] | None:
    run_id, events = json.loads(run.tags.get(PLANNED_TAG, "[null, null]"))
    return events if run_id == run.run_id else None


def _newest_first(instance: dg.DagsterInstance, asset: str | dg.AssetKey) -> Iterator[dg.EventLogRecord]:
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(_key(asset), limit=PAGE, cursor=cursor)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def latest_record(
    instance: dg.DagsterInstance, asset: str | dg.AssetKey, store: ArtifactStore | None = None
) -> dg.EventLogRecord | None:
    """The latest materialization of ``asset``, of those in ``store`` if one is given, with its event id
    (``storage_id``) and time (seconds since the epoch)."""
    newest = instance.fetch_materializations(_key(asset), limit=1).records
    if not newest or store is None or _is_record_in(store, newest[0]):
        return newest[0] if newest else None
    return next(_in_store(_newest_first(instance, asset), store), None)


def latest_records(
    instance: dg.DagsterInstance, assets: Iterable[str | dg.AssetKey]
) -> dict[str, dg.EventLogRecord]:
    """:func:`latest_record` of each of ``assets`` that has one, by name, read all at once."""
    entries = [record.asset_entry for record in instance.get_asset_records([_key(each) for each in assets])]
    return {
        entry.asset_key.to_user_string(): entry.last_materialization_record
        for entry in entries
        if entry.last_materialization_record is not None
    }


def _in_store(
    records: Iterator[dg.EventLogRecord], store: ArtifactStore | None
) -> Iterator[dg.EventLogRecord]:
    return (record for record in records if store is None or _is_record_in(store, record))


def _is_record_in(store: ArtifactStore, record: dg.EventLogRecord) -> bool:
    made = record.asset_materialization
    return made is not None and is_in(store, made)


def _key(asset: str | dg.AssetKey) -> dg.AssetKey:
    return UNPREFIXED.key(asset)


def input_tags(asset: dg.AssetKey, record: dg.EventLogRecord) -> dict[str, str]:
    """The tags with which a materialization says that it was made from ``record`` of its input ``asset``."""
    made, name = record.asset_materialization, asset.to_user_string()
    assert made is not None
    return {
        f"{INPUT_VERSION_TAG}{name}": data_version(made),
        f"{INPUT_EVENT_TAG}{name}": str(record.storage_id),
    }


def data_version(materialization: dg.AssetMaterialization) -> str:
    """The data version that a materialization recorded; Dagster's default where another program recorded none."""
    return (materialization.tags or {}).get(DATA_VERSION_TAG, DEFAULT_DATA_VERSION)


def input_version(materialization: dg.AssetMaterialization, asset: str | dg.AssetKey) -> str | None:
    """The data version of the input ``asset`` from which it was made; None if it had no such input."""
    return (materialization.tags or {}).get(f"{INPUT_VERSION_TAG}{_key(asset).to_user_string()}")


def is_made_from(made: dg.AssetMaterialization, asset: dg.AssetKey, record: dg.EventLogRecord) -> bool:
    """Whether ``made`` has used ``record`` of its input ``asset``, or one of the same data version."""
    assert record.asset_materialization is not None
    now, used = input_tags(asset, record), made.tags or {}
    prefix = (
        INPUT_VERSION_TAG
        if DATA_VERSION_TAG in (record.asset_materialization.tags or {})
        else INPUT_EVENT_TAG
    )
    return now[f"{prefix}{asset.to_user_string()}"] == used.get(f"{prefix}{asset.to_user_string()}")


def changed_settings(made: dg.AssetMaterialization | None, now: Mapping[str, Any]) -> list[str]:
    """The settings that ``made`` was made with and that are others ``now``, for people. Settings that there were not
    yet when it was made are no change, unless they decide something now."""
    recorded = made.metadata.get(SETTINGS_KEY) if made else None
    if recorded is None:
        return []
    later, before = later_settings(), cast("Mapping[str, Any]", recorded.value)
    before, now = ({**later, **given} for given in (before, now))
    return [
        f"{name} {before[name]!r} -> {value!r}"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def artifact_ref(materialization: dg.AssetMaterialization) -> ArtifactRef | None:
    """The artifact that a materialization recorded; None where it recorded none."""
    recorded = materialization.metadata.get(ARTIFACT_KEY)
    if recorded is None:
        return None
    asset, _, version = str(recorded.value).partition("/")
    return ArtifactRef(asset, version)


def is_in(store: ArtifactStore, materialization: dg.AssetMaterialization) -> bool:
    """Whether the recorded artifact, if there is one, was made in ``store`` and is still there: a history may know of
    several artifact roots, and two of them may have the same version."""
    recorded = artifact_ref(materialization)
    return recorded is None or (was_made_in(store, materialization) and store.has(*recorded))


def was_made_in(store: ArtifactStore, materialization: dg.AssetMaterialization) -> bool:
    """Whether it was recorded of ``store``, which need not have the artifact any longer. Earlier versions of Retune did
    not record the store."""
    recorded = materialization.metadata.get(STORE_KEY)
    return recorded is None or recorded.value == store.identity()
