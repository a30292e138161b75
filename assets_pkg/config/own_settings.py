"""Settings of the model that are null: they are as the base model itself has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from resources.models.naming import (
    PROMPTS_FILE,
    ModelNameError,
    OwnSettings,
    find_named,
    own_settings,
    prompts_of,
)
from storage.artifact_store import ArtifactError, ArtifactStore
from storage.remote_store import open_store

DEFAULT_LENGTH = 512
"""Tokens, of a model that states no length."""

PROMPTS = {"query_prefix": "query", "passage_prefix": "passage"}
LENGTHS = ("query_max_length", "passage_max_length")


def with_own_settings(model: Mapping[str, Any], artifact_root: str) -> dict[str, Any]:
    """The ``model`` section with values for prompts and lengths that are null, so that everything that reads the
    profile has the same ones: those of the registry, else of the model's own configuration.

    Of a model that is nowhere any more (a folder that was moved), they are those that the ``base_model`` in the store
    was made with, so that what was made of it stays valid. Where there is none either, its stage reports what is
    missing.

    Args:
        model: the section as it was read, not yet checked.
    """
    null = [name for name in (*PROMPTS, *LENGTHS) if name in model and model[name] is None]
    name, revision = model.get("base_model"), model.get("revision")
    if not null or not isinstance(name, str) or not isinstance(revision, str | None):
        return dict(model)
    own = _own(name, revision, artifact_root)
    values = {setting: getattr(own, role) or "" for setting, role in PROMPTS.items()}
    values |= dict.fromkeys(LENGTHS, own.max_length or DEFAULT_LENGTH)
    return {**model, **{name: values[name] for name in null}}


def _own(name: str, revision: str | None, artifact_root: str) -> OwnSettings:
    try:
        named = find_named(name, revision)
    except ModelNameError:
        named = None
    if named is not None and (named.folder is not None or named.entry is not None):
        return own_settings(named)
    made = _made_before(name, artifact_root)
    if made is not None:
        return made
    return own_settings(named) if named is not None else OwnSettings(None, None, None, "nowhere")


def _made_before(name: str, artifact_root: str) -> OwnSettings | None:
    """Prompts and length of the newest ``base_model`` in the store that was made from this name."""
    try:
        store = open_store(artifact_root)
        for version in store.versions("base_model"):
            summary = _json(store, version, "summary.json")
            if summary.get("source") == name:
                config = _json(store, version, f"model/consolidated/{PROMPTS_FILE}")
                return OwnSettings(*prompts_of(config), summary.get("max_length"), "the model's own")
    except (ArtifactError, OSError, ValueError):
        return None  # whoever reads the store reports what is wrong with it
    return None


def _json(store: ArtifactStore, version: str, name: str) -> dict[str, Any]:
    return json.loads(store.read("base_model", version, name) or b"{}")
