"""What every setting is: its type and range, its value in a profile, and one line about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml

from assets_pkg.config.base import RuntimeOnly, Settings
from assets_pkg.config.profile import Profile

DESCRIPTIONS = Path(__file__).with_name("descriptions.yaml")
NAMES = {str: "text", bool: "true or false", int: "whole number", float: "number", NoneType: "null"}
LIMITS = {
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "<="),
    annotated_types.Lt: ("lt", "<"),
}


@dataclass(frozen=True)
class Setting:
    """One setting. ``section`` is empty for ``artifact_root``; ``decides``: a change of it makes assets stale."""

    section: str
    name: str
    kind: str
    value: Any
    line: str
    decides: bool

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def shown(self) -> str:
        """The value as it is written in YAML and on the command line."""
        return (
            self.value
            if isinstance(self.value, str) and self.value
            else json.dumps(self.value, ensure_ascii=False)
        )


def describe(profile: Profile, section: str | None = None) -> Iterator[Setting]:
    """The settings of ``profile`` in the order of its sections, or of one section."""
    for name in Profile.model_fields:
        if section is not None and name != section:
            continue
        group = getattr(profile, name)
        if not isinstance(group, Settings):
            yield Setting("", name, "text", group, descriptions()[name], False)
            continue
        for key, line in descriptions()[name].items():
            field = type(group).model_fields[key]
            kind = kind_of(field.annotation, field.metadata)
            yield Setting(name, key, kind, getattr(group, key), line, RuntimeOnly not in field.metadata)


@cache
def descriptions() -> dict[str, Any]:
    """The lines, by section and setting."""
    return yaml.safe_load(DESCRIPTIONS.read_text("utf-8"))


def kind_of(annotation: Any, metadata: Any = ()) -> str:
    """A type as people say it: ``one of a, b``, ``whole number >= 1``, ``text or null``."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0], (*inner[1:], *metadata))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(kind_of(each, metadata if each is not NoneType else ()) for each in inner)
    if origin is list:
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return f"map to {kind_of(inner[1])}"
    limits = " and ".join(_limits(metadata))
    return " ".join(filter(None, [NAMES.get(annotation, str(annotation)), limits]))


def _limits(metadata: Any) -> Iterator[str]:
    for item in metadata:
        for each in getattr(item, "metadata", None) or (item,):  # a FieldInfo holds several
            if type(each) in LIMITS:
                name, sign = LIMITS[type(each)]
                yield f"{sign} {getattr(each, name):g}"
