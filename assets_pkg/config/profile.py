"""The typed profile: every setting of every stage, checked before anything runs.

The sections (``config/sections/``) give types and ranges only; the single source of default values is ``default.yaml``
(``config/profile_files.py`` reads it).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from assets_pkg.config.base import (
    AcceleratorSettings,
    AutomationSettings,
    ComputeSettings,
    LaterSetting,
    ModelSettings,
    Settings,
)
from assets_pkg.config.errors import ProfileError
from assets_pkg.config.sections.corpus import CorpusSettings, PassageSettings
from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.config.sections.evaluation import EvalSettings, GateSettings
from assets_pkg.config.sections.export import ExportSettings
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.config.sections.image_text import ImageTextSettings
from assets_pkg.config.sections.judges import JudgeSettings
from assets_pkg.config.sections.prep import PrepSettings
from assets_pkg.config.sections.reindex import ReindexSettings
from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.config.sections.search import SearchSettings
from assets_pkg.config.stages import STAGES
from resources.secret_values import shown
from storage.artifact_store import ArtifactError
from storage.remote import check_url, is_url


class Profile(Settings):
    """Every setting of one project."""

    artifact_root: str
    corpus: CorpusSettings
    passages: PassageSettings
    model: ModelSettings
    sdg: SdgSettings
    prep: PrepSettings
    finetune: FinetuneSettings
    eval: EvalSettings
    gate: GateSettings
    export: ExportSettings
    deploy: DeploySettings
    reindex: ReindexSettings
    search: SearchSettings
    judges: JudgeSettings
    image_text: ImageTextSettings
    accelerator: AcceleratorSettings
    automation: AutomationSettings
    compute: ComputeSettings

    @property
    def imported_model(self) -> str | None:
        """The model folder that is promoted in place of the gate's choice, if the user gives one."""
        return self.export.model_path or self.deploy.model_dir

    @model_validator(mode="after")
    def _one_imported_model(self) -> Profile:
        exported, served = self.export.model_path, self.deploy.model_dir
        if exported and served and exported != served:
            raise ValueError(
                f"export.model_path = {exported!r} and deploy.model_dir = {served!r}: must be the same model, "
                "since the server serves what was exported"
            )
        return self

    def stages(self) -> dict[str, tuple[str, ...]]:
        """The assets of every stage with these settings, in the order of a run.

        Without a measurement of both models there is no comparison, so the gate is not asked.
        """
        stages = dict(STAGES)
        if self.eval.single_model is not None:
            stages["eval"] = ("single_model_metrics",)
        elif not self.eval.eval_base:
            stages["eval"] = ()
        if self.deploy.model_dir is not None:
            stages["deploy"] = (*stages["export"], *stages["deploy"])
        if self.prep.train_input_file is not None:
            stages["finetune"] = ("training_set", "mined_train_set", *stages["finetune"])
        if self.export.export_to_trt:
            stages["export"] = (*stages["export"], "tensorrt_engine")
        return stages

    @field_validator("artifact_root")
    @classmethod
    def _root_holds_no_key(cls, root: str) -> str:
        try:
            return check_url(root) if is_url(root) else root
        except ArtifactError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _enough_negatives(self) -> Profile:
        mined, used = self.prep.hard_negatives_to_mine, self.finetune.train_n_passages - 1
        if mined < used:
            raise ValueError(
                f"prep.hard_negatives_to_mine = {mined}: must be >= finetune.train_n_passages - 1 = {used}"
            )
        return self

    @model_validator(mode="after")
    def _loss_has_negatives(self) -> Profile:
        if not self.finetune.in_batch_negatives and self.finetune.train_n_passages < 2:
            raise ValueError(
                "finetune.train_n_passages = 1: must be >= 2 when finetune.in_batch_negatives is false, "
                "else the loss has nothing to contrast with"
            )
        return self

    @model_validator(mode="after")
    def _gate_metric_is_measured(self) -> Profile:
        measured = {
            f"{name}@{k}" for name in ("NDCG", "MAP", "Recall", "P", "MRR") for k in self.eval.k_values
        }
        if self.gate.metric not in measured:
            raise ValueError(
                f"gate.metric = {self.gate.metric!r}: must be one of {', '.join(sorted(measured))}"
            )
        return self


def with_changes(profile: Profile, changes: Mapping[str, Mapping[str, Any]], source: str) -> Profile:
    """``profile`` with other values of some settings.

    Args:
        changes: the values, by section and setting.
        source: where they were given, for the message of an error.

    Raises:
        ProfileError: a value of a wrong type or out of range, also together with the other settings.
    """
    values = profile.model_dump()
    for section, given in changes.items():
        values[section] = {**values[section], **given}
    return checked(values, source)


def checked(values: Mapping[str, Any], source: str) -> Profile:
    """The profile of ``values``, by section and setting.

    Args:
        source: where they were given, for the message of an error.

    Raises:
        ProfileError: a value of a wrong type or out of range, also together with others; a missing or unknown setting.
    """
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise ProfileError("\n".join(f"{source}: {line}" for line in _explain(error))) from None


def __getattr__(name: str) -> Any:
    """Where docs/search.md of earlier versions imported it from."""
    if name != "load_profile":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from assets_pkg.config.profile_files import load_profile

    warnings.warn(
        "import it from assets_pkg: from assets_pkg import load_profile", DeprecationWarning, stacklevel=2
    )
    return load_profile


@cache
def later_settings() -> Mapping[str, Any]:
    """The settings that earlier versions did not have, by bare name, with the value at which they decide nothing."""
    return {
        name: mark.value
        for group in sections().values()
        for name, field in group.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, LaterSetting)
    }


def sections() -> dict[str, type[Settings]]:
    """The sections of a profile and their types."""
    return {
        name: field.annotation
        for name, field in Profile.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }


def all_keys() -> Iterator[str]:
    """Every setting by its full name: ``stage.key``, or ``key`` of what belongs to no section."""
    for name in Profile.model_fields:
        group = sections().get(name)
        yield from [name] if group is None else [f"{name}.{key}" for key in group.model_fields]


def suggest(key: str, known: list[str]) -> str:
    """`` (did you mean 'other'?)`` for the end of a message, if a known name is close; else nothing."""
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"{key} = {shown(detail['input'])}: no such setting{suggest(key, list(all_keys()))}"
        elif detail["type"] == "value_error":
            yield f"{key + ': ' if key else ''}{detail.get('ctx', {}).get('error')}"
        else:
            # Whoever writes a key where its variable's name belongs does not see it again.
            hidden = detail["type"] == "missing" or key.endswith("_env")
            value = "" if hidden else f" = {shown(detail['input'])}"
            yield f"{key}{value}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
