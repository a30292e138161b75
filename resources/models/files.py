"""Whether a model folder is complete and holds the registered model, by its files alone; nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from resources.models.entry import ModelEntry
from resources.models.safetensors_files import safetensors_problem
from storage.digests import digest_file, digest_json, digest_tree

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.onnx", "*.onnx_data")
DIGEST_FILE = ".retune-digest.json"
WORTH_REMEMBERING_BYTES = 1_000_000_000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
EXPORTED_FILE = "retune_model.json"
"""The manifest of a folder that Retune exported."""

HUB_GRAPHS = ("onnx/model.onnx", "model.onnx")
SIZE_KEYS = ("projection_dim", "hidden_size")
SIZE_SECTIONS = ("text_config", "vision_config")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a model folder; ``text`` names the file and what to do."""

    text: str


def check_files(name: str, entry: ModelEntry, folder: Path) -> list[Problem]:
    """All problems of a model folder; none means that its files are whole and of the registered model.

    Checked: the configuration's architecture and size against the registry, that every weight file named is
    there and as long as its header says, and that there is a tokenizer.
    """
    if not folder.is_dir():
        return [Problem(f"{folder}: no such folder")]
    if entry.adapter == "onnx":
        return list(_onnx_problems(folder))
    return [
        *_config_problems(entry, folder),
        *_weight_problems(name, folder),
        *_tokenizer_problems(folder),
    ]


def digest_model(folder: Path) -> str:
    """Digest of all that determines a model's vectors: weights, configuration, tokenizer.

    Hashing takes about a second for each gigabyte. So the digests of large weights are kept in their folder (where
    it can be written), and used again while a file's size and modification time are unchanged.
    """
    known = _known_digests(folder)
    entries: dict[str, dict[str, Any]] = {}
    for path in _decisive_files(folder):
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        stamp = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        before = known.get(name)
        same = before is not None and {key: before.get(key) for key in stamp} == stamp
        entries[name] = before if before is not None and same else {**stamp, "sha256": digest_file(path)}
    if entries != known and sum(entry["bytes"] for entry in entries.values()) > WORTH_REMEMBERING_BYTES:
        _remember(folder, entries)
    return digest_tree((name, str(entry["sha256"])) for name, entry in entries.items())


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; of its first module's folder where that one has it.

    Raises:
        ValueError: missing or not a JSON object; the message names the file.
    """
    path = transformer_folder(folder) / "config.json"
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a JSON object")
    return cast("dict[str, Any]", config)


def transformer_folder(folder: Path) -> Path:
    """The folder of the network's own files in a sentence-transformers folder; else the folder itself."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        return folder / modules[0]["path"]
    except (OSError, ValueError, LookupError, TypeError):
        return folder


def tokenizer_folder(folder: Path) -> Path:
    """The folder of the tokenizer: the transformer's where that one has it; else the folder itself."""
    own = transformer_folder(folder)
    return own if any((own / name).is_file() for name in TOKENIZER_FILES) else folder


def _config_problems(entry: ModelEntry, folder: Path) -> Iterator[Problem]:
    try:
        config = read_config(folder)
    except ValueError as error:
        yield Problem(str(error))
        return
    kind = config.get("model_type")
    if entry.model_types and kind not in entry.model_types:
        yield Problem(
            f"{transformer_folder(folder) / 'config.json'}: model_type {kind!r}, and the registry has "
            f"{' or '.join(entry.model_types)} for this model: another model's folder"
        )
        return
    sizes = _sizes(config)
    # A model that projects afterwards (Dense module) may be wider or narrower than its network.
    projected = _has_dense(folder)
    if entry.dimensions and sizes and entry.dimensions not in sizes and not projected:
        yield Problem(
            f"{transformer_folder(folder) / 'config.json'}: vectors of {' or '.join(map(str, sorted(sizes)))} "
            f"numbers, and the registry has {entry.dimensions}: another size of this model"
        )


def _has_dense(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        return any(str(module["type"]).endswith(".Dense") for module in modules)
    except (OSError, ValueError, LookupError, TypeError):
        return any(folder.glob("*Dense*"))


def _sizes(config: dict[str, Any]) -> set[int]:
    """The lengths of vectors that a configuration can mean, the projection's first."""
    for key in SIZE_KEYS:
        if isinstance(config.get(key), int):
            return {config[key]}
    sections = [config[name] for name in SIZE_SECTIONS if isinstance(config.get(name), dict)]
    return {section[key] for section in sections for key in SIZE_KEYS if isinstance(section.get(key), int)}


def _weight_problems(name: str, folder: Path) -> Iterator[Problem]:
    network_folder = transformer_folder(folder)
    files, missing = _weight_files(network_folder)
    again = f"retune models download {name} fetches it again"
    for file in missing:
        yield Problem(f"{file}: missing: {again}")
    if not files and not missing:
        yield Problem(f"{network_folder}: no weights (model.safetensors or pytorch_model.bin): {again}")
    for file in files:
        wrong = safetensors_problem(file) if file.suffix == ".safetensors" else _empty(file)
        if wrong:
            yield Problem(f"{file}: {wrong}: delete it, and {again}")


def _weight_files(network_folder: Path) -> tuple[list[Path], list[Path]]:
    """Weight files that are there, and those that an index names and that are not."""
    for index in sorted(network_folder.glob("*.index.json")):
        try:
            named = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, AttributeError, TypeError):
            return [], [index]
        paths = [network_folder / str(part) for part in named]
        return [path for path in paths if path.is_file()], [path for path in paths if not path.is_file()]
    single = [network_folder / "model.safetensors", network_folder / "pytorch_model.bin"]
    return [path for path in single if path.is_file()][:1], []


def _empty(path: Path) -> str | None:
    return "empty" if path.stat().st_size == 0 else None


def _tokenizer_problems(folder: Path) -> Iterator[Problem]:
    if not any(
        (each / name).is_file() for each in {folder, transformer_folder(folder)} for name in TOKENIZER_FILES
    ):
        yield Problem(f"{folder}: no tokenizer (looked for {', '.join(TOKENIZER_FILES)})")


def graph_file(folder: Path) -> Path | None:
    """The ONNX graph of a folder in the hub's usual layout, ``onnx/model.onnx`` beside the tokenizer; None where it has
    none under a usual name."""
    return next((folder / name for name in HUB_GRAPHS if (folder / name).is_file()), None)


def _onnx_problems(folder: Path) -> Iterator[Problem]:
    if not (folder / EXPORTED_FILE).is_file() and (folder / "config.json").is_file():
        if graph_file(folder) is None:
            yield Problem(f"{folder}: no ONNX graph (looked for {', '.join(HUB_GRAPHS)})")
        if not (folder / "tokenizer.json").is_file():
            yield Problem(
                f"{folder / 'tokenizer.json'}: missing: an ONNX model needs the tokenizer in this form"
            )
        return
    for name in (EXPORTED_FILE, "model.onnx", "tokenizer.json"):
        if not (folder / name).is_file():
            yield Problem(f"{folder / name}: missing: export the model again (retune export)")


def _decisive_files(folder: Path) -> list[Path]:
    patterns = (*WEIGHT_PATTERNS, "*.json", "*.txt", "*.model", "*.jinja")
    found = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    inside = ((path, path.relative_to(folder)) for path in found)
    return sorted(path for path, name in inside if not any(part.startswith(".") for part in name.parts))


def _known_digests(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        known: Any = json.loads((folder / DIGEST_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, dict[str, Any]]", known) if isinstance(known, dict) else {}


def _remember(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    try:
        (folder / DIGEST_FILE).write_text(json.dumps(entries), "utf-8")
    except OSError:
        return  # a read-only folder is hashed anew each time


def facts_digest(entry: ModelEntry) -> str:
    """Digest of the registered facts that determine how a model is run."""
    names = {
        "max_tokens", "advised_tokens", "pooling", "padding_side", "pad_to_max", "attention", "append_eos",
        "lowercase", "prompts", "image", "adapter", "dtype",
    }  # fmt: skip
    return digest_json(entry.model_dump(mode="json", include=names))
