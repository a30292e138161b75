"""Assets and checks as a graph under a key prefix has them: with its keys, steps, groups and resources.

Every stage builds its assets without a prefix; here they get it. Dagster's loaders change keys and groups only, and the
names of steps and resources, which must be unique in a code location too, are changed by no public API:
``tests/test_prefixed.py`` fails when a version of Dagster changes what is used here.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import dagster as dg

from assets_pkg.orchestration.instance import GPU_POOL
from assets_pkg.orchestration.names import UNPREFIXED, Names

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
    step = _step(attributes["node_def"], names, resources, pool)
    return part.__class__.dagster_internal_init(
        **{**attributes, "node_def": step, "check_specs_by_output_name": checks}
    )


def _keys(part: dg.AssetsDefinition) -> set[dg.AssetKey]:
    """The graph's assets that it makes, reads or checks."""
    read = {dep.asset_key for spec in part.specs for dep in spec.deps} | set(part.keys_by_input_name.values())
    own = set() if FIRST in part.keys else {key for key in read if UNPREFIXED.makes(key)}
    return {*part.keys, *own, *(check.asset_key for check in part.check_keys)}


def _step(step: dg.OpDefinition, names: Names, resources: Collection[str], pool: str) -> dg.OpDefinition:
    """The step under its name, which takes its resources under theirs, and waits in ``pool`` for the accelerator."""
    compute: Any = step.compute_fn
    return dg.OpDefinition(
        compute_fn=compute._replace(decorated_fn=names.taking(compute.decorated_fn, resources)),
        name=names.of(step.name),
        description=step.description,
        ins={each.name: dg.In.from_definition(each) for each in step.input_defs},
        outs={each.name: dg.Out.from_definition(each) for each in step.output_defs},
        config_schema=step.config_schema,
        required_resource_keys={
            names.of(key) if key in resources else key for key in step.required_resource_keys
        },
        tags=step.tags,
        code_version=step._version,
        retry_policy=step.retry_policy,
        pool=pool if step.pool == GPU_POOL else step.pool,
    )


def _styled(part: dg.AssetsDefinition, names: Names, style: Style) -> dg.AssetsDefinition:
    def styled(spec: dg.AssetSpec) -> dg.AssetSpec:
        assert spec.group_name is not None
        return spec.replace_attributes(
            group_name=names.group(spec.group_name, style.group_prefix),
            owners=spec.owners if style.owners is None else list(style.owners),
            tags={**spec.tags, **(style.tags or {})},
        )

    return part.map_asset_specs(styled) if part.keys and (names.prefix or style != Style()) else part
