"""The base class of the profile's sections, and the sections that belong to no single stage."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from assets_pkg.config.stages import BENCHMARKS, STAGES
from resources.encoders.encoder_config import EncoderConfig
from resources.machine.accelerator import DEVICES
from resources.secret_values import refuse_secrets
from storage.digests import digest_json


class RuntimeOnly:
    """Marks a setting that changes how a stage runs but not what it makes (batch sizes, time limits)."""


class ProfileOnly:
    """Marks a setting that a single run cannot change: it decides which assets there are, where documents, pairs and
    models come from, where those and keys are sent, or what the command does beside the run."""


@dataclass(frozen=True)
class LaterSetting:
    """Marks a setting that earlier versions did not have: while it has ``value`` it decides nothing, so that what they
    made stays valid."""

    value: Any = None


Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
BatchSize = Annotated[int, Field(ge=1), RuntimeOnly]


def _is_list(annotation: Any) -> bool:
    """Whether a setting is a list, or a list or null: no text then means anything else."""
    if get_origin(annotation) in (Union, UnionType):
        return all(part is NoneType or _is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is list


class Settings(BaseModel):
    """A group of settings; unknown keys are errors, and so is a password or key in any value."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, values: Any) -> Any:
        return refuse_secrets(values)

    @model_validator(mode="before")
    @classmethod
    def _lists_without_brackets(cls, values: Any) -> Any:
        """``a,b`` for a list, as the recipe has it."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        lists = {name for name, info in cls.model_fields.items() if _is_list(info.annotation)}
        return {
            name: [item.strip() for item in value.split(",")]
            if name in lists and isinstance(value, str)
            else value
            for name, value in given.items()
        }

    def decisive(self) -> dict[str, Any]:
        """The settings that decide a result, as JSON values."""
        names = {
            name
            for name, field in type(self).model_fields.items()
            if RuntimeOnly not in field.metadata and LaterSetting(getattr(self, name)) not in field.metadata
        }
        return self.model_dump(mode="json", include=names)

    def digest(self) -> str:
        """Digest of the settings that decide a result."""
        return digest_json(self.decisive())

    def part(self, group: type[Settings]) -> Any:
        """The settings that this section inherits from ``group``, for an asset that reads only those."""
        return group(**{name: getattr(self, name) for name in group.model_fields})


ENCODER_FIELDS = (
    "query_prefix",
    "passage_prefix",
    "query_max_length",
    "passage_max_length",
    "attn_implementation",
)


class ModelSettings(Settings):
    """The embedding model that is adapted, and the one prompt contract and precision that every stage embeds with.

    ``base_model`` is a folder, ``package://``, a name of the registry or a hub id. A prefix or length that is null in
    the profile is as the model has it; `load_profile` puts the value in its place.
    With ``trust_remote_code`` the model's own Python code runs wherever the model is loaded, with the user's rights.

    ``embed_precision`` bf16 is several times faster on a GPU, and moves nDCG in the third decimal.
    """

    base_model: str
    revision: str | None
    query_prefix: str
    passage_prefix: str
    query_max_length: PositiveInt
    passage_max_length: PositiveInt
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"]
    embed_precision: Literal["fp32", "bf16"]
    trust_remote_code: bool

    def contract(self) -> dict[str, Any]:
        """The settings that decide a text's vector, given the model."""
        return {name: getattr(self, name) for name in (*ENCODER_FIELDS, "embed_precision")}

    def encoder_config(self, batch_size: int = 128) -> EncoderConfig:
        """The prompt contract and the precision, as an encoder takes them."""
        values = {name: getattr(self, name) for name in ENCODER_FIELDS}
        return EncoderConfig(
            **values,
            precision=self.embed_precision,
            trust_remote_code=self.trust_remote_code,
            batch_size=batch_size,
        )


class AcceleratorSettings(Settings):
    """The device that training and embedding run on. With ``check_memory`` a stage is refused before its weights are
    loaded when it would need more memory than is free."""

    device: Annotated[str, Field(pattern=DEVICES), RuntimeOnly]
    check_memory: Annotated[bool, RuntimeOnly]


class AutomationSettings(Settings):
    """Sensors, schedules and their limits."""

    reindex_sensor_seconds: Annotated[int, Field(ge=5)]
    corpus_sensor_seconds: Annotated[int, Field(ge=5)]
    corpus_quiet_seconds: Annotated[float, Field(ge=0)]
    server_sensor_seconds: Annotated[int, Field(ge=5)]
    batch_sensor_seconds: Annotated[int, Field(ge=5)]
    refresh_cron: str
    measure_cron: str
    timezone: str
    index_max_age_hours: Annotated[float, Field(gt=0)] | None
    index_may_lag_minutes: Annotated[float, Field(ge=0)]


class ComputeSettings(Settings):
    """Where stages run: on a compute target of ``env_file``, or ``inline`` in this process. ``overrides`` replaces
    keys of the chosen targets (``run.env.key=value``)."""

    env_file: str
    run_on: str
    stages: dict[str, str]
    overrides: dict[str, str]

    @field_validator("stages")
    @classmethod
    def _stages_exist(cls, targets: dict[str, str]) -> dict[str, str]:
        for stage in targets:
            if stage not in (*STAGES, *BENCHMARKS):
                raise ValueError(f"no stage {stage!r}: choose from {', '.join((*STAGES, *BENCHMARKS))}")
        return targets
