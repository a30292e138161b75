"""``key=value`` overrides: which settings a key stands for, and what its value is read as."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile import Profile, all_keys, sections, suggest
from assets_pkg.config.recipe_names import ALIASES, VALUES, WITHOUT_COUNTERPART
from assets_pkg.config.stages import SECTIONS
from resources.secret_values import SecretValueError, refuse_secrets, shown, texts_in

TARGET_PREFIX = "run.env."


def settings_of(override: str, section: str | None) -> dict[str, Any]:
    """The settings that ``key=value`` sets, by their full names.

    A key is ``stage.key``, or a bare ``key``: looked up in ``section`` (the stage whose command is run) and in what
    else that stage reads first, then wherever exactly one section has it. Names of the recipe are taken too.

    Raises:
        ProfileError: an unknown or ambiguous key, a value that is not readable as YAML, a secret.
    """
    key, value = _parsed(override)
    stage, _, rest = key.rpartition(".")
    alias = rest in ALIASES and stage in ("", *sections()) and rest not in _fields(stage or section)
    settings: dict[str, Any] = {}
    for full in ALIASES[rest] if alias else (_full_key(key, section),):
        other = VALUES.get((full, value)) if value is None or isinstance(value, str) else None
        settings |= {full: value} if other is None else other
    return settings


def _parsed(text: str) -> tuple[str, Any]:
    key, found, given = text.partition("=")
    key = key.strip()
    if not found or not key:
        raise ProfileError(f"override {shown(text)}: must have the form key=value or stage.key=value")
    check_texts({key: given}, "override")
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
    # passage_prefix=passage: is a text, as the recipe has it
    is_text = isinstance(value, dict) and given.rstrip().endswith(":")
    return key, given if is_text else value


def check_texts(values: Any, source: str) -> None:
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
    raise ProfileError(f"override key {key!r}: no such setting{suggest(key, list(all_keys()))}")


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
    bare = [full.partition(".")[2] or full for full in all_keys()]
    raise ProfileError(f"override key {key!r}: no such setting{suggest(key, bare)}")
