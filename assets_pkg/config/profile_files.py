"""Reading profiles: YAML files that extend one another, with the overrides of a command.

A profile is a YAML file with one section per stage. It extends another one (``extends: laptop``), down to
``default.yaml``, the single source of default values. ``key=value`` overrides come last. Interpolation is OmegaConf's
(``${artifact_root}``), of other settings only: its resolvers (``${oc.env:NAME}``) are off, since what they read would
be printed and recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.overrides import check_texts, settings_of
from assets_pkg.config.own_settings import with_own_settings
from assets_pkg.config.profile import Profile, checked, sections
from assets_pkg.config.remote_code import remote_code_problem
from resources.models.registry import RegistryError
from resources.secret_values import hide_secrets, shown, texts_in

PROFILE_FOLDER = Path(__file__).parent / "profiles"


def load_profile(name: str, overrides: Sequence[str] = (), *, section: str | None = None) -> Profile:
    """Read a profile by name or path and apply ``key=value`` overrides.

    Args:
        section: the stage whose command is run: where the override of a bare ``key`` is looked up first.

    Raises:
        ProfileError: unknown profile, unknown or ambiguous key, value of a wrong type or out of range.
    """
    source = ", ".join([f"profile {name}", *(["overrides"] if overrides else [])])
    try:
        values = _read(name, seen=())
        for text in overrides:
            for key, value in settings_of(text, section).items():
                values = _merged(values, _nested(key.split("."), value))
        if any("${" in text for _, text in texts_in(values)):
            values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        raise ProfileError(f"{source}: {hide_secrets(str(error)).splitlines()[0]}") from None
    profile = checked(_resolved(cast("dict[str, Any]", values)), source)
    if (problem := remote_code_problem(profile.model, profile.deploy)) is not None:
        raise ProfileError(f"{source}: {problem}")
    return profile


def profile_names() -> list[str]:
    """The profiles that come with Retune."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The profile with values for what it leaves to the base model; one that is wrong in another way stays as it is."""
    model, root = values.get("model"), values.get("artifact_root")
    if not isinstance(model, dict) or not isinstance(root, str):
        return values
    try:
        return {**values, "model": with_own_settings(cast("dict[str, Any]", model), root)}
    except RegistryError as error:
        raise ProfileError(f"model.base_model: {error}") from None


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
    check_texts(values, str(path))
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
