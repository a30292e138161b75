"""What a run of the command would do: which assets are missing or stale, and why.

Dagster compares an asset with its direct parents only. The plan adds what follows from that: everything selected below
a stale asset runs too, and reuses its artifact if its inputs are unchanged by then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from assets_pkg.config.stages import STAGE_OF
from assets_pkg.orchestration.history import (
    SETTINGS_KEY,
    changed_settings,
    data_version,
    latest_records,
)
from assets_pkg.orchestration.names import UNPREFIXED
from assets_pkg.orchestration.stale_status import StaleStatuses
from storage.errors import RetuneError

ASKED_BY = {"tensorrt_engine": " export_to_trt=true"}
"""The setting without which a stage does not make an asset."""

State = Literal["missing", "stale", "follows", "fresh"]
Probe = Callable[[dg.AssetMaterialization], str | None]
"""Checks what is outside the graph since an asset was made; returns why it is stale, or None."""

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
        history = _History(
            defs, instance, latest_records(instance, parents_of), StaleStatuses(defs, instance)
        )
        assets, inputs = _planned(parents_of, history, selection, probes, forced)
        now = _events(latest_records(instance, parents_of))
        if now == _events(history.records):  # else another run has made one of them meanwhile
            return Plan(assets, inputs, now)


@dataclass(frozen=True)
class _History:
    """What is known of the assets of ``defs``. ``records``: the latest materialization of each that was made."""

    defs: dg.Definitions
    instance: dg.DagsterInstance
    records: Mapping[str, dg.EventLogRecord]
    statuses: StaleStatuses

    def made(self, name: str) -> dg.AssetMaterialization | None:
        record = self.records.get(name)
        return None if record is None else record.asset_materialization


def _events(records: Mapping[str, dg.EventLogRecord]) -> dict[str, int]:
    return {asset: record.storage_id for asset, record in records.items()}


def _planned(
    parents_of: Mapping[str, Sequence[str]],
    history: _History,
    selection: Sequence[str],
    probes: Mapping[str, Probe],
    forced: Collection[str],
) -> tuple[tuple[PlannedAsset, ...], dict[str, str | None]]:
    roots = {parent for name in selection for parent in parents_of[name] if not parents_of.get(parent)}
    selected = {*selection, *roots}
    planned: dict[str, PlannedAsset] = {}
    inputs: dict[str, str | None] = {}
    for name, parents in parents_of.items():
        if name in selected:
            inputs |= {parent: _version(history, parent) for parent in parents if parent not in selected}
            reasons = _own_reasons(name, history, probes.get(name))
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


def _own_reasons(name: str, history: _History, probe: Probe | None) -> PlannedAsset | None:
    """The asset as missing or stale by itself, or None."""
    status = history.statuses.status(UNPREFIXED.key(name))
    if status == "missing":
        return PlannedAsset(name, "missing", ("never made",))
    if status == "stale":
        return PlannedAsset(name, "stale", tuple(_stale_reasons(name, history)))
    failed = _failed_check(name, history)
    if failed:
        return PlannedAsset(name, "stale", (failed,))
    made = history.made(name)
    outside = probe(made) if probe and made else None
    return PlannedAsset(name, "stale", (outside,)) if outside else None


def _failed_check(name: str, history: _History) -> str | None:
    """The blocking check that the asset's latest version failed, or that its run did not come to. Nothing may be made
    of that version, by a later run either: it is made and checked again."""
    graph, record = history.defs.resolve_asset_graph(), history.records.get(name)
    checks = graph.get_check_keys_for_assets({UNPREFIXED.key(name)})
    blocking = [each for each in checks if graph.get_check_spec(each).blocking]
    if record is None or not blocking:
        return None
    log = history.instance.event_log_storage
    for check, latest_run in log.get_latest_asset_check_execution_by_key(blocking).items():
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


def _stale_reasons(name: str, history: _History) -> Iterator[str]:
    for cause in history.statuses.causes(UNPREFIXED.key(name)):
        if cause.code_changed:
            yield _changed_settings(name, history)
        else:
            yield f"{cause.parent} changed" if cause.parent is not None else cause.reason


def _changed_settings(name: str, history: _History) -> str:
    now = history.defs.resolve_asset_graph().get(UNPREFIXED.key(name)).metadata.get(SETTINGS_KEY, {})
    changed = changed_settings(history.made(name), now)
    return "settings changed: " + ", ".join(changed) if changed else "the code of this step changed"


def _version(history: _History, name: str) -> str | None:
    made = history.made(name)
    return None if made is None else data_version(made)
