"""The typed profile: every setting of every stage, read from YAML and checked before anything runs.

A profile is a YAML file with one section per stage. It extends another one (``extends: laptop``), down to
``default.yaml``, the single source of default values; the sections (``config/sections/``) give types and ranges only.
``key=value`` overrides come last. Interpolation is OmegaConf's (``${artifact_root}``), of other settings only: its
resolvers (``${oc.env:NAME}``) are off, since what they read would be printed and recorded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse
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
from assets_pkg.config.own_settings import with_own_settings
from assets_pkg.config.recipe_names import ALIASES, VALUES, WITHOUT_COUNTERPART
from assets_pkg.config.remote_code import remote_code_problem
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
from assets_pkg.config.stages import SECTIONS, STAGES
from resources.models.registry import RegistryError
from resources.secret_values import SecretValueError, hide_secrets, refuse_secrets, shown, texts_in
from storage.artifact_store import ArtifactError
from storage.remote import check_url, is_url

TARGET_PREFIX = "run.env."
PROFILE_FOLDER = Path(__file__).parent / "profiles"


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


def load_profile(name: str, overrides: Sequence[str] = (), *, section: str | None = None) -> Profile:
    """Read a profile by name or path and apply ``key=value`` overrides.

    A key is ``stage.key``, or a bare ``key``: looked up in ``section`` (the stage whose command is run) and in what
    else that stage reads first, then wherever exactly one section has it. Names of the recipe are taken too.

    Raises:
        ProfileError: unknown profile, unknown or ambiguous key, value of a wrong type or out of range.
    """
    source = ", ".join([f"profile {name}", *(["overrides"] if overrides else [])])
    try:
        values = _read(name, seen=())
        for text in overrides:
            for key, value in _settings_of(*_parse_override(text), section).items():
                values = _merged(values, _nested(key.split("."), value))
        if any("${" in text for _, text in texts_in(values)):
            values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise ProfileError(f"{source}: {hide_secrets(str(error)).splitlines()[0]}") from None
    try:
        profile = Profile.model_validate(_resolved(cast("dict[str, Any]", values)))
    except ValidationError as error:
        raise ProfileError("\n".join(f"{source}: {line}" for line in _explain(error))) from None
    if (problem := remote_code_problem(profile.model, profile.deploy)) is not None:
        raise ProfileError(f"{source}: {problem}")
    return profile


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
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise ProfileError("\n".join(f"{source}: {line}" for line in _explain(error))) from None


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The profile with values for what it leaves to the base model; one that is wrong in another way stays as it is."""
    model, root = values.get("model"), values.get("artifact_root")
    if not isinstance(model, dict) or not isinstance(root, str):
        return values
    try:
        return {**values, "model": with_own_settings(cast("dict[str, Any]", model), root)}
    except RegistryError as error:
        raise ProfileError(f"model.base_model: {error}") from None


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


def profile_names() -> list[str]:
    """The profiles that come with Retune."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """What the profile and those that it extends say; interpolations as they are written."""
    if name in seen:
        raise ProfileError(f"profile {name} extends itself: {' -> '.join([*seen, name])}")
    path = _find(name)
    values = _shipped(path) if path.parent == PROFILE_FOLDER else _load(path)
    parent = values.get("extends", None if name == "default" else "default")
    own = {key: value for key, value in values.items() if key != "extends"}
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise ProfileError(f"{path}: extends: {shown(parent)}: must be a profile's name or a file")
    try:
        return _merged(_read(parent, (*seen, name)), own)
    except ProfileError as error:
        raise ProfileError(f"{path}: extends: {error}") from None


@cache
def _shipped(path: Path) -> dict[str, Any]:
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    """One profile's own values, without its sections that are null, since all their lines are comments."""
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # noqa: BLE001 (chained, its text would show the value that it stumbled over)
        raise ProfileError(f"{path}: not readable as YAML: {hide_secrets(str(error))}") from None
    if not isinstance(config, DictConfig):
        raise ProfileError(f"{path}: must be a mapping of sections")
    values = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    _check_texts(values, str(path))
    return {key: value for key, value in values.items() if value is not None or key not in sections()}


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, mappings key by key; a new mapping as far down as anything is changed."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[key] = _merged(cast("dict[str, Any]", before), value) if both else value
    return merged


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """``value`` at ``keys`` from the top."""
    first, *rest = keys
    return {first: _nested(rest, value) if rest else value}


def _find(name: str) -> Path:
    for path in (PROFILE_FOLDER / f"{name}.yaml", Path(name)):
        with suppress(OSError, ValueError):  # no name of a file at all
            if path.is_file():
                return path
    raise ProfileError(
        f"profile {shown(name)}: no such file, nor one of the built-in profiles {', '.join(profile_names())}"
    )


def _parse_override(text: str) -> tuple[str, Any]:
    key, found, given = text.partition("=")
    key = key.strip()
    if not found or not key:
        raise ProfileError(f"override {shown(text)}: must have the form key=value or stage.key=value")
    _check_texts({key: given}, "override")
    if key.startswith(TARGET_PREFIX):
        return f"compute.overrides.{key.removeprefix(TARGET_PREFIX)}", given
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={given}"]), resolve=False)
    except yaml.YAMLError:
        raise ProfileError(
            f"override {key} = {shown(given)}: the value is not readable as YAML: put it into quotes, "
            f"""'{key}="..."'"""
        ) from None
    value = cast("dict[str, Any]", parsed)["value"]
    if isinstance(value, dict) and given.rstrip().endswith(
        ":"
    ):  # passage_prefix=passage: is a text, as the recipe has it
        return key, given
    return key, value


def _check_texts(values: Any, source: str) -> None:
    """Refuse secrets and resolvers in values as they are written, before anything can print them or look them up."""
    try:
        refuse_secrets(values)
    except SecretValueError as error:
        raise ProfileError(f"{source}: {error}") from None
    for key, text in texts_in(values):
        if "${" in text and _calls_a_resolver(parse(text)):
            raise ProfileError(
                f"{source}: {key}: ${{...:...}} is not read here: what it looks up would be printed and recorded. Give "
                "the value itself, or as an override from the shell; keys stay in the environment, and only their "
                "variable's name is written (api_key_env). Other settings can be named: ${artifact_root}"
            )


def _calls_a_resolver(tree: Any) -> bool:
    """Whether OmegaConf's grammar finds ``${NAME:...}`` anywhere in a parsed text."""
    if isinstance(tree, OmegaConfGrammarParser.InterpolationResolverContext):
        return True
    return any(_calls_a_resolver(child) for child in getattr(tree, "children", None) or ())


def _settings_of(key: str, value: Any, section: str | None) -> dict[str, Any]:
    """The settings that an override sets, by their full names."""
    stage, _, rest = key.rpartition(".")
    alias = rest in ALIASES and stage in ("", *sections()) and rest not in _fields(stage or section)
    settings: dict[str, Any] = {}
    for full in ALIASES[rest] if alias else (_full_key(key, section),):
        other = VALUES.get((full, value)) if value is None or isinstance(value, str) else None
        settings |= {full: value} if other is None else other
    return settings


def _fields(section: str | None) -> Iterable[str]:
    group = sections().get(section or "")
    return () if group is None else group.model_fields


def _full_key(key: str, section: str | None) -> str:
    """``stage.key`` for a bare or full override key."""
    groups = sections()
    if key in Profile.model_fields and key not in groups:
        return key
    stage, dot, rest = key.partition(".")
    if not dot:
        return f"{_home(key, section)}.{key}"
    if stage in groups and rest.partition(".")[0] in groups[stage].model_fields:
        return key
    if any(stage in group.model_fields for group in groups.values()):
        return f"{_home(stage, section)}.{key}"  # one entry of a setting: query_counts.multi_hop
    raise ProfileError(f"override key {key!r}: no such setting{_suggest(key, list(_all_keys()))}")


def _home(key: str, section: str | None) -> str:
    """The section that a bare key belongs to."""
    homes = [name for name, group in sections().items() if key in group.model_fields]
    near = [home for home in SECTIONS.get(section or "", (section,)) if home in homes]
    if near:
        return str(near[0])
    if len(homes) == 1:
        return homes[0]
    if homes:
        choices = ", ".join(f"{home}.{key}" for home in homes)
        raise ProfileError(f"override key {key!r} is ambiguous: write one of {choices}")
    if key in WITHOUT_COUNTERPART:
        raise ProfileError(f"override key {key!r} of the recipe: {WITHOUT_COUNTERPART[key]}")
    bare = [full.partition(".")[2] or full for full in _all_keys()]
    raise ProfileError(f"override key {key!r}: no such setting{_suggest(key, bare)}")


def sections() -> dict[str, type[Settings]]:
    """The sections of a profile and their types."""
    return {
        name: field.annotation
        for name, field in Profile.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }


def _all_keys() -> Iterator[str]:
    for name in Profile.model_fields:
        group = sections().get(name)
        yield from [name] if group is None else [f"{name}.{key}" for key in group.model_fields]


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"{key} = {shown(detail['input'])}: no such setting{_suggest(key, list(_all_keys()))}"
        elif detail["type"] == "value_error":
            yield f"{key + ': ' if key else ''}{detail.get('ctx', {}).get('error')}"
        else:
            # Whoever writes a key where its variable's name belongs does not see it again.
            hidden = detail["type"] == "missing" or key.endswith("_env")
            value = "" if hidden else f" = {shown(detail['input'])}"
            yield f"{key}{value}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
