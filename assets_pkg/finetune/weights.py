"""What can be told about a model folder's weights without loading them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from assets_pkg.finetune.errors import BaseModelError
from resources.models.shape import read_header

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.json")

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tekken.json")


def weight_files(folder: Path) -> list[Path]:
    """Every weight file of one module's folder, and the index of sharded ones."""
    return sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))


def check_weights(folder: Path) -> None:
    """Check that a transformer's weights are all there and none is cut short.

    Raises:
        BaseModelError: naming the file that is missing or damaged.
    """
    again = "download or copy the model again"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        for name in sorted(set(_read_json(index)["weight_map"].values())):
            if not (folder / name).exists():
                raise BaseModelError(f"{folder / name}: missing, but {index.name} names it: {again}")
    elif not weight_files(folder):
        raise BaseModelError(f"{folder}: no weights (model.safetensors or pytorch_model.bin): {again}")
    for path in folder.glob("*.safetensors"):
        _check_size(path, again)


def check_tokenizer(folder: Path) -> None:
    """Check that a tokenizer's vocabulary is there (transformers would make up an empty one without a word).

    Raises:
        BaseModelError: there is none.
    """
    if not any(path for pattern in TOKENIZERS for path in folder.glob(pattern)):
        raise BaseModelError(
            f"{folder}: no tokenizer ({', '.join(TOKENIZERS)}): download or copy the model again"
        )


def parameter_count(folder: Path) -> int:
    """Number of values in all safetensors files below ``folder`` (0 where there are none)."""
    return sum(
        math.prod(tensor["shape"])
        for path in folder.rglob("*.safetensors")
        for name, tensor in read_header(path)[0].items()
        if name != "__metadata__"
    )


def _check_size(path: Path, advice: str) -> None:
    try:
        header, start = read_header(path)
    except (struct.error, ValueError) as error:
        raise BaseModelError(f"{path}: damaged (its header cannot be read): {advice}") from error
    end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    size = path.stat().st_size
    if size != start + end:
        raise BaseModelError(f"{path}: has {size:,} bytes where {start + end:,} are announced: {advice}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BaseModelError(f"{path}: not JSON: {error}") from error
