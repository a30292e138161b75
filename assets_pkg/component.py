"""Retune as a component of a Dagster project: a graph described in ``defs.yaml``.

Every setting of the profile is an attribute, typed and described, so that editors and ``dg check yaml`` know it; the
profile that it extends gives the others.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Union

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from assets_pkg.build import EVERYTHING, build_definitions
from assets_pkg.config.base import Settings
from assets_pkg.config.describe import describe
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.project import DEFAULT_PROFILE

Template = Annotated[str, Field(pattern=r"\{\{.*\}\}")]
"""A value that Dagster fills in, such as ``{{ env.PORT }}``."""


class _Attributes(BaseModel):
    """What a graph in a code location has beside its settings."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    extends: str = Field(
        DEFAULT_PROFILE,
        description="The profile that gives the settings not named here: a name, or a file beside.",
    )
    key_prefix: str | list[str] | None = Field(
        None, description="Precedes the names of all assets, jobs, sensors, schedules and resources."
    )
    corpus_asset: str | None = Field(
        None, description="The asset whose metadata path or url names the documents, as path/of/key."
    )
    group_prefix: str | None = Field(None, description="Precedes the names of groups; null: the key prefix.")
    owners: list[str] | None = Field(None, description="Of all assets: team:NAME or an e-mail address.")
    tags: dict[str, str] | None = Field(None, description="Added to all assets.")
    include: list[str] = Field(
        ["sensors", "schedules"], description=f"Which of {', '.join(EVERYTHING)} belong to it."
    )


@cache
def _attributes() -> type[BaseModel]:
    """The model of all attributes: those of the graph, and a section for each of the profile's, all optional."""
    sections: dict[str, Any] = {name: _optional(info, name) for name, info in Profile.model_fields.items()}
    return create_model("RetuneComponentAttributes", __base__=_Attributes, **sections)


def _optional(info: FieldInfo, name: str) -> tuple[Any, Any]:
    """A setting, or a section of settings, that may be left out."""
    kind = info.annotation
    if isinstance(kind, type) and issubclass(kind, Settings):
        inner: dict[str, Any] = {
            key: _optional(each, f"{name}.{key}") for key, each in kind.model_fields.items()
        }
        section: Any = create_model(kind.__name__, __config__=_Attributes.model_config, **inner)
        return (Union[section, None], None)  # noqa: UP007 (made at run time)
    bounds = [
        each for each in info.metadata if type(each).__module__.startswith(("annotated_types", "pydantic"))
    ]
    typed: Any = Annotated[kind, *bounds] if bounds else kind
    return (Union[typed, Template, None], Field(None, description=_lines().get(name)))  # noqa: UP007


@cache
def _lines() -> Mapping[str, str]:
    """A line about every setting, by its full name."""
    return {setting.key: setting.line for setting in describe(load_profile("default"))}


@dataclass
class RetuneComponent(dg.Component):
    """Fine-tunes an embedding model on documents, and keeps an embedding server and a search index in step with it."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return _attributes()

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "RetuneComponent":
        given = {} if attributes is None else attributes.model_dump(mode="json", exclude_unset=True)
        values = dict(context.resolution_context.resolve_value(given))
        beside = context.path / str(values.get("extends", ""))
        if beside.is_file():
            values["extends"] = str(beside)
        return cls(values)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        ours = _Attributes.model_fields
        own = _Attributes.model_validate({name: value for name, value in self.values.items() if name in ours})
        settings = {name: value for name, value in self.values.items() if name not in ours}
        source = None if own.corpus_asset is None else dg.AssetKey.from_user_string(own.corpus_asset)
        return build_definitions(
            load_profile(own.extends, list(_overrides(settings))),
            key_prefix=own.key_prefix,
            corpus_asset=source,
            group_prefix=own.group_prefix,
            owners=own.owners,
            tags=own.tags,
            include=own.include,
        )


def _overrides(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(Profile.model_fields[name].annotation, type):
            yield from (f"{name}.{key}={json.dumps(each)}" for key, each in value.items())
        elif value is not None:
            yield f"{name}={json.dumps(value)}"
