"""What a run would do: which assets are missing or stale, and why, asked of the instance and of the world.

Dagster compares an asset with its direct parents only. So the plan adds what follows from that: everything
selected below a stale asset runs too (and is reused in no time where its inputs turn out unchanged).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    StaleCauseCategory,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest

from assets_pkg.orchestration.asset_context import SETTINGS_KEY
from storage.errors import RetuneError

State = Literal["missing", "stale", "follows", "fresh"]
Probe = Callable[[dg.DagsterInstance], str | None]
"""Looks at the world outside the graph; returns why the asset is stale, or None."""


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
    """The selected assets in the order in which they would run."""

    assets: tuple[PlannedAsset, ...]

    @property
    def to_run(self) -> list[str]:
        return [asset.name for asset in self.assets if asset.state != "fresh"]


def make_plan(
    defs: dg.Definitions, instance: dg.DagsterInstance, selection: Sequence[str], probes: Mapping[str, Probe]
) -> Plan:
    """Plan the run of ``selection``. Assets that begin the graph and that the selection needs come with it.

    Raises:
        PlanError: an asset above the selection was never materialized.
    """
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    planned: dict[str, PlannedAsset] = {}
    selection = [*selection, *_beginnings(graph, selection)]
    for key in (key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)):
        name = key.to_user_string()
        if name not in selection:
            continue
        parents = [parent.to_user_string() for parent in graph.get(key).parent_keys]
        _require(instance, name, [parent for parent in parents if parent not in selection])
        planned[name] = _plan_asset(key, parents, planned, defs, instance, resolver, probes.get(name))
    return Plan(tuple(_together(planned)))


def _beginnings(graph: AssetGraph, selection: Sequence[str]) -> list[str]:
    """Direct parents of the selection that have no parents themselves: fetching them is cheap."""
    parents = {parent for name in selection for parent in graph.get(dg.AssetKey(name)).parent_keys}
    return [parent.to_user_string() for parent in parents if not graph.get(parent).parent_keys]


def _plan_asset(
    key: dg.AssetKey,
    parents: Sequence[str],
    planned: Mapping[str, PlannedAsset],
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    resolver: CachingStaleStatusResolver,
    probe: Probe | None,
) -> PlannedAsset:
    name = key.to_user_string()
    status = resolver.get_status(key)
    if status == StaleStatus.MISSING:
        return PlannedAsset(name, "missing", ("never made",))
    if status == StaleStatus.STALE:
        return PlannedAsset(name, "stale", tuple(_reasons(key, defs, instance, resolver)))
    outside = probe(instance) if probe else None
    if outside:
        return PlannedAsset(name, "stale", (outside,))
    above = [parent for parent in parents if parent in planned and planned[parent].state != "fresh"]
    if above:
        return PlannedAsset(name, "follows", (f"after {', '.join(above)}",))
    return PlannedAsset(name, "fresh", ())


def _together(planned: Mapping[str, PlannedAsset]) -> Iterator[PlannedAsset]:
    """The two re-indexing assets are one step: if one of them runs, both do."""
    pair = ("corpus_embeddings", "vector_index")
    either = any(name in planned and planned[name].state != "fresh" for name in pair)
    for asset in planned.values():
        if asset.name in pair and asset.state == "fresh" and either:
            yield PlannedAsset(asset.name, "follows", ("one step with the other",))
        else:
            yield asset


def _reasons(
    key: dg.AssetKey, defs: dg.Definitions, instance: dg.DagsterInstance, resolver: CachingStaleStatusResolver
) -> Iterator[str]:
    for cause in resolver.get_stale_causes(key):
        if cause.category == StaleCauseCategory.CODE:
            yield _changed_settings(key, defs, instance)
        elif cause.dependency is not None:
            yield f"{cause.dependency.asset_key.to_user_string()} changed"
        else:
            yield cause.reason


def _changed_settings(key: dg.AssetKey, defs: dg.Definitions, instance: dg.DagsterInstance) -> str:
    event = instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    recorded = materialization.metadata.get(SETTINGS_KEY) if materialization else None
    now: dict[str, Any] = defs.resolve_asset_graph().get(key).metadata.get(SETTINGS_KEY, {})
    before: Any = recorded.value if recorded else {}
    changed = [
        f"{name} {before.get(name)!r} -> {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    return "settings changed: " + ", ".join(changed) if changed else "the code of this step changed"


def _require(instance: dg.DagsterInstance, name: str, parents: Sequence[str]) -> None:
    for parent in parents:
        if instance.get_latest_materialization_event(dg.AssetKey(parent)) is None:
            raise PlanError(
                f"{name} needs {parent}, which was never made: start from an earlier stage with --from"
            )
