"""Assets and checks as a graph under a key prefix has them: with its keys, steps, groups and resources.

Every stage builds its assets without a prefix; here they get it. Dagster's loaders change keys and groups only; the
names of steps and resources must be unique in a code location too.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import dagster as dg

from assets_pkg.orchestration.instance import GPU_POOL
from assets_pkg.orchestration.names import UNPREFIXED, Names
from assets_pkg.orchestration.steps import function_of, with_function

FIRST = UNPREFIXED.key("raw_corpus")
"""Reads no other asset of the graph, only one that the user names."""

A = TypeVar("A", bound=dg.AssetsDefinition)


@dataclass(frozen=True)
class Style:
    """What a user sets of all assets of a graph; what is None stays as each asset has it.

    Attributes:
        owners: replace each asset's.
        tags: are added to each asset's.
        pool: in which steps that train or embed wait for the accelerator.
    """

    group_prefix: str | None = None
    owners: Sequence[str] | None = None
    tags: Mapping[str, str] | None = None
    pool: str = GPU_POOL


def placed(parts: Sequence[A], names: Names, resources: Collection[str], style: Style) -> list[A]:
    """``parts`` under ``names`` and with ``style``; unchanged where those change nothing.

    Args:
        parts: assets and checks without a prefix.
        resources: the names of the resources that their steps take.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        made = [_styled(_named(part, names, resources, style.pool), names, style) for part in parts]
    return cast("list[A]", made)  # each of the class that it was of


def _named(
    part: dg.AssetsDefinition, names: Names, resources: Collection[str], pool: str
) -> dg.AssetsDefinition:
    if not names.prefix and pool == GPU_POOL:
        return part
    own = {key: names.key(key.path[-1]) for key in _keys(part)}
    part = part.with_attributes(asset_key_replacements=own)
    attributes = part.get_attributes_dict()
    checks = {
        output: spec._replace(
            additional_deps=[
                dep._replace(asset_key=own.get(dep.asset_key, dep.asset_key)) for dep in spec.additional_deps
            ]
        )
        for output, spec in attributes["check_specs_by_output_name"].items()
    }
    # It takes its resources under the graph's names, and waits in its pool for the accelerator.
    return with_function(
        part,
        names.taking(function_of(part), resources),
        name=names.of(attributes["node_def"].name),
        resources=[
            names.of(key) if key in resources else key
            for key in attributes["node_def"].required_resource_keys
        ],
        pool=pool if attributes["node_def"].pool == GPU_POOL else None,
        check_specs_by_output_name=checks,
    )


def _keys(part: dg.AssetsDefinition) -> set[dg.AssetKey]:
    """The graph's assets that it makes, reads or checks."""
    read = {dep.asset_key for spec in part.specs for dep in spec.deps} | set(part.keys_by_input_name.values())
    own = set() if FIRST in part.keys else {key for key in read if UNPREFIXED.makes(key)}
    return {*part.keys, *own, *(check.asset_key for check in part.check_keys)}


def _styled(part: dg.AssetsDefinition, names: Names, style: Style) -> dg.AssetsDefinition:
    def styled(spec: dg.AssetSpec) -> dg.AssetSpec:
        assert spec.group_name is not None
        return spec.replace_attributes(
            group_name=names.group(spec.group_name, style.group_prefix),
            owners=spec.owners if style.owners is None else list(style.owners),
            tags={**spec.tags, **(style.tags or {})},
        )

    return part.map_asset_specs(styled) if part.keys and (names.prefix or style != Style()) else part
