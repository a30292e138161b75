"""What makes a folder of a transformers model one that sentence-transformers loads by itself: a stock architecture,
modules, a maximum length, a padding token."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.errors import BaseModelError
from resources.encoders.registered_text import POOLINGS
from resources.models.entry import ModelEntry
from resources.models.files import tokenizer_folder
from resources.models.naming import TRANSFORMER_CONFIGS
from storage.files import write_json

# Model types of bidirectional embedding models, and the decoder they are derived from: the only difference is
# bidirectional attention, which ``is_causal: false`` turns on.
BIDIRECTIONAL = {"llama_bidirec": ("llama", "LlamaModel")}
POOLING = {"avg": "mean", "mean": "mean", "cls": "cls", "last": "lasttoken"}


def set_stock_architecture(target: Path, settings: ModelSettings) -> None:
    """Set the architecture of transformers for a bidirectional decoder that would need remote code."""
    path = transformer_folder(target) / "config.json"
    config = read_json(path) if path.exists() else {}
    kind = config.get("model_type")
    if settings.trust_remote_code or kind not in BIDIRECTIONAL:
        return
    model_type, architecture = BIDIRECTIONAL[kind]
    config |= {"model_type": model_type, "architectures": [architecture], "is_causal": False}
    config.pop("auto_map", None)
    replace_json(path, config)


def check_code_is_here(target: Path) -> None:
    """Check that the code which is run lies in the folder, and is not fetched from another repository at every load.

    Raises:
        BaseModelError: it is not.
    """
    for path in {target, transformer_folder(target)}:
        for name in ("config.json", "tokenizer_config.json"):
            config = read_json(path / name) if (path / name).exists() else {}
            if other := re.findall(r"([\w./-]+)--", json.dumps(config.get("auto_map", {}))):
                raise BaseModelError(
                    f"{path / name}: auto_map names code of another repository, {other[0]}, in whatever state that is "
                    "now: copy its files into the model's folder, and name them without the repository"
                )


def ensure_modules(target: Path, entry: ModelEntry | None) -> None:
    """Add sentence-transformers modules to a plain transformers folder, and a normalisation as the last module."""
    path = target / "modules.json"
    modules = read_json(path) if path.exists() else _wrap(target, entry)
    if not modules or not _kind(modules[0]).endswith("Transformer"):
        kinds = ", ".join(_kind(module) for module in modules)
        raise BaseModelError(
            f"{path}: modules [{kinds}]: only models that begin with a Transformer can be tuned"
        )
    if all(_kind(module) != "Normalize" for module in modules):
        number = len(modules)
        modules = [*modules, _module(number, f"{number}_Normalize", "Normalize")]
        replace_json(path, modules)


def _wrap(target: Path, entry: ModelEntry | None) -> list[dict[str, Any]]:
    config_path = target / "config.json"
    if not config_path.exists():
        raise BaseModelError(f"{target}: neither modules.json nor config.json: this is not a model folder")
    config = read_json(config_path)
    if "vision_config" in config:
        raise BaseModelError(
            f"{config_path}: model_type {config.get('model_type')!r} reads images too: only text models can be tuned "
            "(`retune image-text` measures models of images)"
        )
    own = POOLING.get(str(config.get("pooling", "mean")), "mean")
    pooling = own if entry is None else POOLINGS.get(str(entry.pooling), own)
    replace_json(
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


def transformer_folder(target: Path) -> Path:
    """The folder of the transformer's own files: the first that modules.json names; ``target`` where there is none."""
    path = target / "modules.json"
    if not path.exists():
        return target
    try:
        return target / read_json(path)[0]["path"]
    except (LookupError, TypeError) as error:
        raise BaseModelError(f"{path}: not a list of modules with a path each") from error


def write_max_length(target: Path, tokens: int) -> None:
    own = transformer_folder(target)
    named = (own / name for name in TRANSFORMER_CONFIGS)
    path = next((path for path in named if path.exists()), own / TRANSFORMER_CONFIGS[0])
    config = read_json(path) if path.exists() else {}
    config["max_seq_length"] = tokens
    replace_json(path, config)


def pad_with_the_end_token(target: Path, tokenizer: Any) -> None:
    """Give a tokenizer without a padding token (GPT-2's) its end token for that: padding is masked, whatever it is."""
    if tokenizer.pad_token is not None or tokenizer.eos_token is None:
        return
    path = tokenizer_folder(target) / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    replace_json(path, {**config, "pad_token": tokenizer.eos_token})
    tokenizer.pad_token = tokenizer.eos_token


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: not readable as JSON: {error}") from error


def replace_json(path: Path, value: Any) -> None:
    """Replace a JSON file."""
    write_json(path, value, indent=2, ensure_ascii=True)
