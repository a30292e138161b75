"""The registry: the shipped ``models.yaml`` with the user's own over it, read and checked, and names resolved to
entries.

The user's file is the one that ``RETUNE_MODELS`` names, else ``models.yaml`` in the working folder. An entry in it that
says how the model is run (``adapter`` or ``provider_type``) is a whole one, and replaces a shipped entry of the same
name; any other changes single facts of the shipped one.

The shipped file is at the top of the project. It lies here too as a link and, in an installed package, as a copy
(package data), so that one path finds it in both.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from resources.models.entry import ModelEntry
from resources.secret_values import hide_secrets
from storage.errors import RetuneError

FILE_NAME = "models.yaml"
ENVIRONMENT_NAME = "RETUNE_MODELS"
SHIPPED = Path(__file__).with_name(FILE_NAME)
WHOLE = ("adapter", "provider_type")
"""Facts that say how a model is run."""


class RegistryError(RetuneError, ValueError):
    """The registry, or a name looked up in it, cannot be used; the message names file, model and field."""


@dataclass(frozen=True)
class Registry:
    """The models by their short names, the user's first; ``path`` is the user's file where there is one."""

    path: Path
    models: Mapping[str, ModelEntry]

    def __iter__(self) -> Iterator[tuple[str, ModelEntry]]:
        return iter(self.models.items())

    def name_of(self, name: str) -> str:
        """The short name behind a short name, hub id or alias.

        Raises:
            RegistryError: there is no such model; the message has the nearest names.
        """
        for short, entry in self.models.items():
            if name in (short, entry.hub_id, *entry.aliases):
                return short
        known = [*self.models, *(entry.hub_id for entry in self.models.values() if entry.hub_id)]
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(self.models)}"
        raise RegistryError(f"{self.path} has no model {name!r}: {hint}")

    def get(self, name: str) -> ModelEntry:
        """The entry of a short name, hub id or alias. Raises `RegistryError`."""
        return self.models[self.name_of(name)]


def user_path() -> Path | None:
    """The user's own ``models.yaml``; None where there is none.

    Raises:
        RegistryError: ``RETUNE_MODELS`` names no file.
    """
    named = os.environ.get(ENVIRONMENT_NAME)
    if named:
        if not Path(named).is_file():
            raise RegistryError(f"{ENVIRONMENT_NAME}={named}: no such file")
        return Path(named)
    here = Path(FILE_NAME)
    return here if here.is_file() else None


def load_registry(path: Path | None = None) -> Registry:
    """The user's models (``path``, or the file that :func:`user_path` finds) over the shipped ones.

    A name or alias that the user gives to a model of his own means that one, whatever it names in the shipped file.

    Raises:
        RegistryError: not readable as YAML, not ``models: {name: facts}``, or a fact that is unknown, of a
            wrong type or in contradiction with another.
    """
    path = path or user_path()
    shipped = _shipped()
    if path is None or path.resolve() == SHIPPED.resolve():
        return Registry(SHIPPED, _entries(SHIPPED, shipped))
    own = {name: _over(shipped.get(name), facts) for name, facts in read_models(path).items()}
    rest = {name: facts for name, facts in shipped.items() if name not in own}
    return Registry(path, {**_entries(path, own), **_entries(SHIPPED, rest)})


@cache
def _shipped() -> Mapping[str, Any]:
    return read_models(SHIPPED)


def _over(shipped: Any, facts: Any) -> Any:
    """The user's ``facts`` of a model, with the shipped ones that they leave as they are."""
    if not isinstance(shipped, dict) or not isinstance(facts, dict) or any(key in facts for key in WHOLE):
        return cast("Any", facts)
    return {**cast("dict[str, Any]", shipped), **cast("dict[str, Any]", facts)}


def _entries(path: Path, values: Mapping[str, Any]) -> dict[str, ModelEntry]:
    models: dict[str, ModelEntry] = {}
    taken: dict[str, str] = {}
    for name, facts in values.items():
        models[name] = _entry(path, name, facts)
        for alias in {name, *models[name].aliases, *filter(None, [models[name].hub_id])}:
            if taken.setdefault(alias, name) != name:
                raise RegistryError(f"{path}: {alias!r} names both {taken[alias]} and {name}")
    return models


def read_models(path: Path) -> dict[str, Any]:
    """The models of a registry file as they are written, by their names.

    Raises:
        RegistryError: not readable as YAML, or not ``models: {name: facts}``.
    """
    import yaml

    from storage.formats.yaml_values import load_yaml

    try:
        with path.open(encoding="utf-8") as stream:  # of a text, errors would quote a part
            document: Any = load_yaml(stream)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise RegistryError(f"{path}: not readable as YAML: {hide_secrets(said)}") from None
    models: Any = cast("dict[str, Any]", document).get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or not all(
        isinstance(name, str) for name in cast("dict[Any, Any]", models)
    ):
        raise RegistryError(f"{path}: must be 'models:' with an entry for each model name")
    return cast("dict[str, Any]", models)


def _entry(path: Path, name: str, facts: Any) -> ModelEntry:
    try:
        return ModelEntry.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fact = ".".join([name, *(str(part) for part in first["loc"])])
        raise RegistryError(f"{path}: {fact}: {first['msg']}") from None
