"""The size of a network, from its configuration and the headers of its weight files; nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from resources.models.files import read_config, transformer_folder
from resources.models.safetensors_files import tensor_shapes

TEXT_SECTIONS = ("text_config", "llm_config")
NAMES = {
    "layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer"),
    "hidden": ("hidden_size", "dim", "d_model", "n_embd"),
    "inner": ("intermediate_size", "hidden_dim", "d_ff", "n_inner"),
    "heads": ("num_attention_heads", "n_heads", "num_heads", "n_head"),
}
"""One size under the names that the architectures of transformers give it."""

GATES = ("gate_proj", "wi_0", "gated_layers", "up_gate_proj")
TABLES = ("embed", "wte", "wpe", "shared")
"""Parts of the names of lookup tables: matrices, but not of linear layers."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes that decide how much memory a network takes.

    ``parameters`` counts every weight, ``largest`` the values of the largest tensor; ``linear`` has (outputs, inputs)
    of every linear layer; ``inner`` is the width between a block's two feed-forward layers, ``gated`` says that they
    are three; ``stored_bytes`` is the size of the weight files.
    """

    parameters: int
    largest: int
    linear: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    inner: int
    heads: int
    gated: bool
    stored_bytes: int


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in ``folder`` (a sentence-transformers or a transformers one).

    Raises:
        ValueError: the configuration or the weights cannot be read, or name no sizes; the message names the file.
    """
    config = _text_part(read_config(folder))
    network_folder = transformer_folder(folder)
    sizes = {name: _first(config, keys) for name, keys in NAMES.items()}
    if missing := [name for name, size in sizes.items() if size is None and name != "inner"]:
        raise ValueError(
            f"{network_folder / 'config.json'}: says nothing of the number of {', '.join(missing)}"
        )
    hidden = cast("int", sizes["hidden"])
    tensors = _tensors(network_folder)
    counts = [math.prod(shape) for shape in tensors.values()]
    return ModelShape(
        parameters=sum(counts),
        largest=max(counts),
        linear=tuple((shape[0], shape[1]) for name, shape in tensors.items() if _is_linear(name, shape)),
        layers=cast("int", sizes["layers"]),
        hidden=hidden,
        inner=sizes["inner"] or 4 * hidden,
        heads=cast("int", sizes["heads"]),
        gated=any(part in name for name in tensors for part in GATES),
        stored_bytes=sum(path.stat().st_size for path in _weight_files(network_folder)),
    )


def token_positions(config: Any, modules: Iterable[Any]) -> int | None:
    """How many tokens a loaded network of transformers has positions for; None where their number is not limited.

    RoBERTa and its kin count from one after the padding's number, so that their table has rows that no token uses.

    Args:
        config: the network's.
        modules: all of the network's, itself included.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - next((first for first in map(_first_position, modules) if first), 0)


def _first_position(module: Any) -> int:
    padding = getattr(module, "padding_idx", None)
    table = getattr(getattr(module, "position_embeddings", None), "weight", None)
    return 0 if table is None or not isinstance(padding, int) else padding + 1


def _text_part(config: dict[str, Any]) -> Mapping[str, Any]:
    """The section of the network that reads text, where a configuration describes several networks."""
    inside = (config[name] for name in TEXT_SECTIONS if isinstance(config.get(name), dict))
    return config if _first(config, NAMES["layers"]) else next(inside, config)


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _weight_files(network_folder: Path) -> list[Path]:
    return sorted(network_folder.glob("*.safetensors")) or sorted(network_folder.glob("pytorch_model*.bin"))


def _tensors(network_folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor by name; of weights that are no safetensors, one tensor as large as the files."""
    files = _weight_files(network_folder)
    if not files:
        raise ValueError(f"{network_folder}: no weights (model.safetensors or pytorch_model.bin)")
    if files[0].suffix == ".bin":
        return {"weights": [sum(path.stat().st_size for path in files) // 4]}
    found: dict[str, list[int]] = {}
    for path in files:
        try:
            found |= tensor_shapes(path)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error})") from error
    return found


def _is_linear(name: str, shape: list[int]) -> bool:
    return len(shape) == 2 and name.endswith("weight") and not any(part in name for part in TABLES)
