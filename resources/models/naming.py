"""One name for a model: a folder, ``package://``, a name of the registry, or an id of the Hugging Face hub; and the
prompts and length that it brings."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from resources.encoders.base import Role
from resources.models.entry import ModelEntry
from resources.models.files import transformer_folder
from resources.models.locations import CONFIG_FILES, find_weights, weights_root
from resources.models.registry import Registry, RegistryError, load_registry
from storage.errors import RetuneError

ROLES: tuple[Role, ...] = ("query", "passage")
PACKAGE = "package://"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
PROMPTS_FILE = "config_sentence_transformers.json"
PROMPT_NAMES: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "passage": ("document", "passage", "corpus"),
}
"""Names that models have for their prompts, as sentence-transformers' ``encode_query`` and ``encode_document`` look for
them."""

TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of sentence-transformers' configuration of a transformer, in the order in which it looks for them."""

LONGEST = 1_000_000
"""Tokenizers without a limit have a number beyond this one."""

HUB_TIMEOUT_S = 5.0


class ModelNameError(RetuneError, ValueError):
    """A name that means no model here or on the hub; the message says what to do."""


@dataclass(frozen=True)
class NamedModel:
    """The model that a name means: its ``folder`` on this machine, else its id and revision on the hub, to be
    downloaded from; ``entry`` is what the registry says of it."""

    name: str
    folder: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    entry: ModelEntry | None = None


@dataclass(frozen=True)
class OwnSettings:
    """What a model brings: the prompt of each role, None where nothing is known of it, and the longest text in tokens,
    None where it is not limited; ``source`` says where they are from."""

    query: str | None
    passage: str | None
    max_length: int | None
    source: Literal["the registry", "the model's own", "the hub", "nowhere"]


def find_named(name: str, revision: str | None = None) -> NamedModel:
    """The model that ``name`` means. Nothing is downloaded.

    A folder comes first; then a name, alias or hub id of the registry, with its weights below ``embedding_models/``
    or in a package; then a hub id, with its weights below ``embedding_models/``.

    Args:
        revision: of the hub; by default the registry's. Of another one than the registry's, no weights are searched.

    Raises:
        ModelNameError: the package or the folder does not exist, or the name has no form of a hub id.
        RegistryError: the registry cannot be read.
    """
    if name.startswith(PACKAGE):
        return NamedModel(name, _package_folder(name))
    local = Path(name).expanduser()
    if local.is_dir():
        return NamedModel(name, local)
    is_path = name.startswith(("/", ".", "~"))
    registry = load_registry()
    if not is_path and (entry := _registered(registry, name)) is not None:
        other = revision is not None and revision != entry.revision
        found = None if other else find_weights(registry.name_of(name), entry)
        # What lies in the hub's cache may be a part: a download completes it.
        folder = None if found is None or found.kind == "cache" else found.folder
        return NamedModel(name, folder, entry.hub_id, revision or entry.revision, entry)
    if is_path or not HUB_ID.fullmatch(name):
        raise ModelNameError(
            f"{name!r}: no such folder: give a model folder, a name of models.yaml or a hub id"
        )
    return NamedModel(name, None if revision else _below_weights_root(name), name, revision)


def own_settings(named: NamedModel) -> OwnSettings:
    """Prompts and length: what the registry says, else what the model's folder says. Where the model is not here, its
    configuration is fetched from the hub (a few hundred bytes, and only once)."""
    files = OwnSettings(None, None, None, "nowhere")
    if named.folder is not None:
        files = OwnSettings(*folder_prompts(named.folder), folder_length(named.folder), "the model's own")
    elif named.hub_id is not None and not (named.entry and "prompts" in named.entry.model_fields_set):
        files = _hub_settings(named.hub_id, named.revision)
    entry = named.entry
    if entry is None:
        return files
    length = entry.text_tokens or files.max_length
    if "prompts" not in entry.model_fields_set:
        return OwnSettings(files.query, files.passage, length, files.source)
    return OwnSettings(entry.prompts.prefix("query"), entry.prompts.prefix("passage"), length, "the registry")


def folder_prompts(folder: Path) -> tuple[str, str]:
    """The prompts of a model folder for queries and for passages; empty where it has none, or where its configuration
    cannot be read (loading the model reports it)."""
    return prompts_of(_read(folder / PROMPTS_FILE))


def prompts_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """The prompts in the values of a ``config_sentence_transformers.json``; empty where it has none."""
    prompts = config.get("prompts")
    known = cast("dict[str, Any]", prompts) if isinstance(prompts, dict) else {}
    query, passage = (
        next((str(known[name]) for name in PROMPT_NAMES[role] if known.get(name)), "") for role in ROLES
    )
    return query, passage


def folder_length(folder: Path) -> int | None:
    """The longest text of a model folder in tokens: sentence-transformers' ``max_seq_length``, else the smaller of the
    tokenizer's limit and the network's positions; None where there is no limit."""
    own = transformer_folder(folder)
    lengths = (_read(own / name).get("max_seq_length") for name in TRANSFORMER_CONFIGS)
    found = next((length for length in lengths if isinstance(length, int)), None)
    return found or max_tokens(own)


def max_tokens(transformer: Path) -> int | None:
    """The smaller of a network's positions and its tokenizer's limit; None where neither is stated."""
    return min(_limits(transformer), default=None)


def _limits(transformer: Path) -> Iterator[int]:
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        limit = _read(transformer / name).get(key)
        if isinstance(limit, int | float) and 0 < limit < LONGEST:
            yield int(limit)


def _registered(registry: Registry, name: str) -> ModelEntry | None:
    try:
        return registry.get(name)
    except RegistryError:
        return None


def _below_weights_root(name: str) -> Path | None:
    folders = (weights_root() / part for part in (name, name.rpartition("/")[2]))
    return next(
        (folder for folder in folders if any((folder / file).is_file() for file in CONFIG_FILES)), None
    )


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    try:
        folder = Path(str(importlib.resources.files(package))) / inside
    except ModuleNotFoundError as error:
        raise ModelNameError(
            f"{name!r}: the Python package {package!r} is not installed: pip install {package.replace('_', '-')}"
        ) from error
    if not folder.is_dir():
        raise ModelNameError(f"{name!r}: package {package!r} has no folder {inside!r}")
    return folder


def _hub_settings(hub_id: str, revision: str | None) -> OwnSettings:
    prompts = _hub_file(hub_id, PROMPTS_FILE, revision)
    if prompts is None:
        return OwnSettings(None, None, None, "nowhere")
    length = _hub_file(hub_id, TRANSFORMER_CONFIGS[0], revision)
    found = _read(length).get("max_seq_length") if length is not None else None
    return OwnSettings(*prompts_of(_read(prompts)), found if isinstance(found, int) else None, "the hub")


def _hub_file(hub_id: str, name: str, revision: str | None) -> Path | None:
    """A small file of the hub's, of its cache if it is there; a path that does not exist where the model has none, and
    None where the hub cannot be asked."""
    from huggingface_hub import (
        get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import RemoteEntryNotFoundError

    absent = Path(name) / "none"
    cached = try_to_load_from_cache(hub_id, name, revision=revision)
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else absent
    try:
        with suppress(RemoteEntryNotFoundError):  # the download remembers it
            # A hub that cannot be reached is asked once; the download would try for half a minute.
            get_hf_file_metadata(hf_hub_url(hub_id, name, revision=revision), timeout=HUB_TIMEOUT_S)
        return Path(hf_hub_download(hub_id, name, revision=revision))
    except RemoteEntryNotFoundError:
        return absent
    except Exception:  # noqa: BLE001 (whatever it is, the download of the model reports it)
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
