"""Runs with other settings than the profile's, given as run config (:mod:`~assets_pkg.orchestration.run_config`).

Their steps are those of the graph that a profile with these settings would have: the same code versions, build keys and
records, so that what is stale afterwards is right, and the profile's own results stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import dagster as dg

from assets_pkg.config.profile import Profile, sections
from assets_pkg.orchestration.resources import Resources, build_resources
from assets_pkg.orchestration.run_config import profile_of_run
from assets_pkg.orchestration.run_tags import SETTINGS_TAG, settings_digest
from assets_pkg.orchestration.steps import function_of, standing_for, with_function
from resources.configurable import ChatModelResource, ComputeResource, EncoderResource
from storage.errors import RetuneError

A = TypeVar("A", bound=dg.AssetsDefinition)


def with_run_settings(
    parts: Sequence[A], profile: Profile, build: Callable[[Profile], Sequence[dg.AssetsDefinition]]
) -> list[A]:
    """``parts`` that follow the settings of each run.

    Args:
        parts: the assets and checks of ``profile``, whose functions take Dagster's context first.
        build: makes all of them for other settings.
    """
    steps = frozenset(part.node_def.name for part in parts)

    def follow(part: A) -> A:
        function, step = function_of(part), part.node_def.name

        def run(context: Any, **given: Any) -> Any:
            try:
                now = profile_of_run(profile, context.run.run_config, steps)
            except RetuneError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            if now == profile:
                return function(context, **given)
            context.log.info(f"settings of this run: {', '.join(_differences(profile, now))}")
            context.instance.add_run_tags(context.run.run_id, {SETTINGS_TAG: settings_digest(now)})
            other = next(each for each in build(now) if each.node_def.name == step)
            if isinstance(context, dg.AssetExecutionContext):
                context = _Context(context, other)
            before, after = build_resources(profile), build_resources(now)
            resources = {name: _resource(each, before, after) for name, each in given.items()}
            return function_of(other)(context, **resources)

        return with_function(part, standing_for(function, run))

    return [follow(part) for part in parts]


class _Context(dg.AssetExecutionContext):
    """The context of a step that makes its assets as another definition of them says."""

    def __init__(self, context: dg.AssetExecutionContext, assets: dg.AssetsDefinition):
        super().__init__(context.op_execution_context)
        self._assets = assets

    @property
    def assets_def(self) -> dg.AssetsDefinition:
        return self._assets


def _resource(given: Any, before: Resources, after: Resources) -> Any:
    """A step's resource with what the settings ``after`` make of it; one of the user's own stays as it is."""
    for kind, own, other, part in (
        (ChatModelResource, before.chat_model, after.chat_model, "chat_config"),
        (EncoderResource, before.encoders, after.encoders, "encoder_config"),
        (ComputeResource, before.compute, after.compute, "profile_targets"),
    ):
        if isinstance(given, kind) and getattr(given, part) == getattr(own, part):
            return given.model_copy(update={part: getattr(other, part)})
    return given


def _differences(profile: Profile, now: Profile) -> list[str]:
    return [
        f"{section}.{name} {was!r} -> {value!r}"
        for section in sections()
        for name, value in getattr(now, section)
        if (was := getattr(getattr(profile, section), name)) != value
    ]
