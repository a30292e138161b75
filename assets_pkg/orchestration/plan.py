"""What a run of the command would do: which assets are missing or stale, and why.

Dagster compares an asset with its direct parents only. The plan adds what follows from that: everything selected below
a stale asset runs too, and reuses its artifact if its inputs are unchanged by then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from assets_pkg.config.stages import STAGE_OF
from assets_pkg.orchestration.history import (
    SETTINGS_KEY,
    changed_settings,
    data_version,
    latest,
    latest_record,
)
from assets_pkg.orchestration.names import UNPREFIXED
from assets_pkg.orchestration.stale_status import StaleStatuses
from storage.errors import RetuneError

ASKED_BY = {"tensorrt_engine": " export_to_trt=true"}
"""The setting without which a stage does not make an asset."""

State = Literal["missing", "stale", "follows", "fresh"]
Probe = Callable[[dg.DagsterInstance], str | None]
"""Checks what is outside the graph; returns why the asset is stale, or None."""

ONE_STEP = ("corpus_embeddings", "vector_index")
"""Assets that one step makes: if one of them runs, both do."""


class PlanError(RetuneError):
    """The selected assets need something that was never made."""


@dataclass(frozen=True)
class PlannedAsset:
    """One asset of the plan. ``reasons`` is empty for fresh ones."""

    name: str
    state: State
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The selected assets in the order in which they would run.

    Attributes:
        inputs: what they read of assets that are not selected, with its version; None where it was never made.
        events: the id of the latest materialization of every asset of the graph, of which the plan was made.
    """

    assets: tuple[PlannedAsset, ...]
    inputs: Mapping[str, str | None]
    events: Mapping[str, int]

    @property
    def to_run(self) -> list[str]:
        return [asset.name for asset in self.assets if asset.state != "fresh"]

    def require_inputs(self) -> None:
        """Raises `PlanError` when an input was never made."""
        for name, version in self.inputs.items():
            if version is None:
                raise PlanError(
                    f"{name} is needed, and was never made: start from its stage, {STAGE_OF[name]}, or an earlier one "
                    f"(retune run --from {STAGE_OF[name]}{ASKED_BY.get(name, '')})"
                )


def make_plan(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: Sequence[str],
    probes: Mapping[str, Probe],
    forced: Collection[str] = (),
) -> Plan:
    """Plan the run of ``selection``, with those of ``forced`` whatever their state. Parents of the selection that have
    no parents themselves come with it: fetching them is cheap.
    """
    parents_of = _parents_in_order(defs)
    while True:
        events = _latest_events(instance, parents_of)
        assets, inputs = _planned(parents_of, defs, instance, selection, probes, forced)
        if events == _latest_events(instance, parents_of):  # else another run has made one of them meanwhile
            return Plan(assets, inputs, events)


def _latest_events(instance: dg.DagsterInstance, assets: Iterable[str]) -> dict[str, int]:
    records = {asset: latest_record(instance, asset) for asset in assets}
    return {asset: record.storage_id for asset, record in records.items() if record is not None}


def _planned(
    parents_of: Mapping[str, Sequence[str]],
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: Sequence[str],
    probes: Mapping[str, Probe],
    forced: Collection[str],
) -> tuple[tuple[PlannedAsset, ...], dict[str, str | None]]:
    statuses = StaleStatuses(defs, instance)
    roots = {parent for name in selection for parent in parents_of[name] if not parents_of.get(parent)}
    selected = {*selection, *roots}
    planned: dict[str, PlannedAsset] = {}
    inputs: dict[str, str | None] = {}
    for name, parents in parents_of.items():
        if name in selected:
            inputs |= {parent: _version(instance, parent) for parent in parents if parent not in selected}
            reasons = _own_reasons(name, defs, instance, statuses, probes.get(name))
            if reasons is None and name in forced:
                reasons = PlannedAsset(name, "stale", ("asked for by --force",))
            planned[name] = reasons or _as_above(name, parents, planned)
    return tuple(_with_one_step(planned)), inputs


def _parents_in_order(defs: dg.Definitions) -> dict[str, list[str]]:
    """The direct parents of every asset, parents before children and alphabetically among equals."""
    graph = defs.resolve_asset_graph()
    keys = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)]
    return {
        key.to_user_string(): [parent.to_user_string() for parent in graph.get(key).parent_keys]
        for key in keys
    }


def _own_reasons(
    name: str,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    statuses: StaleStatuses,
    probe: Probe | None,
) -> PlannedAsset | None:
    """The asset as missing or stale by itself, or None."""
    key = UNPREFIXED.key(name)
    status = statuses.status(key)
    if status == "missing":
        return PlannedAsset(name, "missing", ("never made",))
    if status == "stale":
        return PlannedAsset(name, "stale", tuple(_stale_reasons(key, defs, instance, statuses)))
    failed = _failed_check(key, defs, instance)
    if failed:
        return PlannedAsset(name, "stale", (failed,))
    outside = probe(instance) if probe else None
    return PlannedAsset(name, "stale", (outside,)) if outside else None


def _failed_check(key: dg.AssetKey, defs: dg.Definitions, instance: dg.DagsterInstance) -> str | None:
    """The blocking check that the asset's latest version failed, or that its run did not come to. Nothing may be made
    of that version, by a later run either: it is made and checked again."""
    graph, record = defs.resolve_asset_graph(), latest_record(instance, key)
    blocking = [
        each for each in graph.get_check_keys_for_assets({key}) if graph.get_check_spec(each).blocking
    ]
    if record is None or not blocking:
        return None
    for check, latest_run in instance.event_log_storage.get_latest_asset_check_execution_by_key(
        blocking
    ).items():
        made = latest_run.evaluation
        if not isinstance(made, dg.AssetCheckEvaluation):
            if latest_run.run_id == record.run_id:
                return f"its check {check.name} has not been made"
            continue
        target = made.target_materialization_data
        of_latest = target is not None and target.storage_id == record.storage_id
        if of_latest and not made.passed and made.severity == dg.AssetCheckSeverity.ERROR:
            return f"it failed its check {check.name}"
    return None


def _as_above(name: str, parents: Sequence[str], planned: Mapping[str, PlannedAsset]) -> PlannedAsset:
    above = [parent for parent in parents if parent in planned and planned[parent].state != "fresh"]
    if above:
        return PlannedAsset(name, "follows", (f"after {', '.join(above)}",))
    return PlannedAsset(name, "fresh", ())


def _with_one_step(planned: Mapping[str, PlannedAsset]) -> Iterator[PlannedAsset]:
    runs = any(name in planned and planned[name].state != "fresh" for name in ONE_STEP)
    for asset in planned.values():
        if asset.name in ONE_STEP and asset.state == "fresh" and runs:
            yield PlannedAsset(asset.name, "follows", ("one step with the other",))
        else:
            yield asset


def _stale_reasons(
    key: dg.AssetKey, defs: dg.Definitions, instance: dg.DagsterInstance, statuses: StaleStatuses
) -> Iterator[str]:
    for cause in statuses.causes(key):
        if cause.code_changed:
            yield _changed_settings(key, defs, instance)
        else:
            yield f"{cause.parent} changed" if cause.parent is not None else cause.reason


def _changed_settings(key: dg.AssetKey, defs: dg.Definitions, instance: dg.DagsterInstance) -> str:
    changed = changed_settings(
        latest(instance, key), defs.resolve_asset_graph().get(key).metadata.get(SETTINGS_KEY, {})
    )
    return "settings changed: " + ", ".join(changed) if changed else "the code of this step changed"


def _version(instance: dg.DagsterInstance, name: str) -> str | None:
    made = latest(instance, name)
    return None if made is None else data_version(made)
