"""``@stage_asset``: ``@dg.asset`` with what every asset of the graph has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import dagster as dg

from assets_pkg.config.base import ComputeSettings, Settings
from assets_pkg.orchestration.history import SETTINGS_KEY
from assets_pkg.orchestration.instance import GPU_POOL
from assets_pkg.orchestration.run_config import config_fields
from resources.compute.errors import ComputeError
from resources.compute.stage_targets import StageTargets
from storage.digests import digest_json

OWNERS = ["team:retrieval"]


def code_version(logic: str, *settings: Settings) -> str:
    """An asset's code version: the version of its logic and the digest of the settings that it reads."""
    return f"{logic}-{digest_json([group.digest() for group in settings])}"


def stage_asset(
    group: str,
    *settings: Settings,
    kinds: set[str],
    deps: tuple[str | dg.AssetKey, ...] = (),
    pool: str | None = None,
    check_specs: Sequence[dg.AssetCheckSpec] = (),
    optional: bool = False,
    logic: str = "1",
    offered: Sequence[Settings] = (),
    config: Mapping[str, dg.Field] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """``@dg.asset`` with what every asset of the graph has.

    Args:
        settings: the settings that decide the result; with ``logic`` they make the code version.
        pool: for a step that trains or embeds: :func:`accelerator_pool`, in which it waits for the accelerator.
        optional: the step may make nothing.
        logic: raised when the step's code gives another result for the same inputs and settings.
        offered: the settings that a run can change, if they are not ``settings``.
        config: what a run can be given besides.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        fields = {**config_fields(function.__name__, *offered or settings), **(config or {})}
        return dg.asset(
            group_name=group,
            code_version=code_version(logic, *settings),
            deps=list(deps),
            kinds=kinds,
            owners=OWNERS,
            pool=pool,
            check_specs=check_specs,
            output_required=not optional,
            metadata={SETTINGS_KEY: shown_settings(*settings)},
            config_schema=fields or None,
        )(function)

    return decorate


def accelerator_pool(compute: ComputeSettings, stage: str) -> str | None:
    """The pool of this machine's accelerator; None where ``stage`` runs on a compute target with accelerators of its
    own, so that the step here only waits."""
    with suppress(ComputeError):  # a target that does not exist is reported by the run
        if not StageTargets(**compute.model_dump()).uses_this_machine(stage):
            return None
    return GPU_POOL


def shown_settings(*settings: Settings) -> dict[str, Any]:
    """The settings behind a code version, recorded so that a plan can say which of them changed."""
    return {name: value for group in settings for name, value in group.decisive().items()}
