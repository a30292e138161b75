"""The settings of a stage as Dagster's run config, which the Launchpad shows and checks.

They have the sections, names, defaults and descriptions of the profile. A model, and what is marked ``ProfileOnly``, is
for all runs of a graph and is not offered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic.fields import FieldInfo

from assets_pkg.config.base import ModelSettings, ProfileOnly, Settings
from assets_pkg.config.describe import descriptions, kind_of
from assets_pkg.config.profile import Profile, sections, with_changes
from assets_pkg.config.stages import SECTIONS, STAGE_OF
from storage.errors import RetuneError

SCALARS = (str, bool, int, float)


class RunConfigError(RetuneError, ValueError):
    """The run config of a run contradicts itself."""


def config_fields(asset: str, *settings: Settings) -> dict[str, dg.Field]:
    """The run config of the step that makes ``asset``: of the ``settings`` that it reads those of its own stage, by
    section."""
    found: dict[str, dict[str, dg.Field]] = {}
    for group in settings:
        section = _section_of(group)
        if section in SECTIONS[STAGE_OF[asset]] and not isinstance(group, ModelSettings):
            found.setdefault(section, {}).update(_fields(section, group))
    return {
        section: dg.Field(
            dg.Shape(fields), description=f"Settings of this run, as in the profile's section {section}."
        )
        for section, fields in found.items()
    }


def profile_of_run(profile: Profile, run_config: Mapping[str, Any], steps: Collection[str]) -> Profile:
    """The settings that a run works with: those of ``profile``, with the values that were given to any of ``steps``. A
    setting that several steps read has one value in all of them.

    Raises:
        RunConfigError: it was given two values.
        ProfileError: a value of a wrong type or out of range.
    """
    given: dict[tuple[str, str], tuple[str, Any]] = {}
    for step in sorted(steps):
        config = run_config.get("ops", {}).get(step, {}).get("config", {})
        for section in sections().keys() & config.keys():
            own = getattr(profile, section).model_dump(mode="json")
            for name, value in config[section].items():
                if value == own[name]:
                    continue
                first, before = given.setdefault((section, name), (step, value))
                if value != before:
                    raise RunConfigError(
                        f"run config: {section}.{name} is {before!r} for {first} and {value!r} for {step}: in a run a "
                        "setting has one value; give it to one of them, or the same to both"
                    )
    changes: dict[str, dict[str, Any]] = {}
    for (section, name), (_, value) in given.items():
        changes.setdefault(section, {})[name] = value
    return with_changes(profile, changes, "run config") if changes else profile


def _section_of(group: Settings) -> str:
    """The section of the profile that ``group`` is a part of; empty for what is derived from several."""
    return next((name for name, kind in sections().items() if issubclass(kind, type(group))), "")


def _fields(section: str, group: Settings) -> dict[str, dg.Field]:
    values, fields = group.model_dump(mode="json"), type(group).model_fields
    return {
        name: _field(f"{section}_{name}", fields[name], values[name], line)
        for name, line in descriptions()[section].items()
        if name in fields and ProfileOnly not in fields[name].metadata
    }


def _field(name: str, info: FieldInfo, value: Any, line: str) -> dg.Field:
    described = f"{line.rstrip('.')} ({kind_of(info.annotation, info.metadata)})."
    return dg.Field(_config_type(name, info.annotation), default_value=value, description=described)


def _config_type(name: str, annotation: Any) -> Any:
    """Dagster's type for a setting's. Bounds, and what its types cannot express, are checked when the run has begun."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _config_type(name, inner[0])
    if origin is Literal:
        return _choice(name, inner)
    if origin in (Union, UnionType):
        kinds = [each for each in inner if each is not NoneType]
        found = _config_type(name, kinds[0]) if len(kinds) == 1 else dg.Any
        return dg.Noneable(found) if NoneType in inner else found
    if origin is list:
        return dg.Array(_config_type(name, inner[0]))
    if origin is dict:
        return dg.Map(str, _config_type(name, inner[1]))
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        fields = annotation.model_fields.items()
        return dg.Shape(
            {key: dg.Field(_config_type(f"{name}_{key}", info.annotation)) for key, info in fields}
        )
    return annotation if annotation in SCALARS else dg.Any


@cache
def _choice(name: str, values: tuple[str, ...]) -> dg.Enum:
    """Dagster takes one enum of a name in a code location, whichever graphs it is in."""
    return dg.Enum(name, [dg.EnumValue(value) for value in values])
