"""What of a sentence-transformers checkpoint can be exported: its modules, pooling, tokenizer and query map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.nim.manifest import TOKENIZER_FILE, Pooling
from storage.errors import RetuneError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

SUPPORTED_POOLING: tuple[Pooling, ...] = ("mean", "cls", "lasttoken")


class ExportError(RetuneError):
    """The checkpoint cannot be exported, or its export is not usable; the message says why."""


def check_exportable(checkpoint: Path) -> None:
    """Check what a sentence-transformers folder says of its modules, pooling and tokenizer; the transformer's weights
    are not loaded.

    Raises:
        ExportError: the model cannot be exported, before or after training.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Router

    modules = json.loads((checkpoint / "modules.json").read_text("utf-8"))
    folders = {str(each["type"]).rpartition(".")[2]: checkpoint / str(each["path"]) for each in modules}
    pooling = PoolingModule.load(str(folders["Pooling"])) if "Pooling" in folders else None
    admit_modules(list(folders), pooling)
    if "Router" in folders:
        _matrix_of(Router.load(str(folders["Router"])))
    require_fast_tokenizer(folders["Transformer"])


def admit_modules(names: Sequence[str], pooling: PoolingModule | None) -> Pooling:
    before = names[: names.index("Router")] if "Router" in names else names
    after = set(names[len(before) + 1 :])
    allowed = {"Transformer", "Pooling", "Dense", "Normalize"}
    if (
        pooling is None
        or names[0] != "Transformer"
        or not set(before) <= allowed
        or not after <= {"Normalize"}
    ):
        raise ExportError(
            f"modules {names} cannot be exported; Transformer, Pooling, Dense and Normalize can, and a Router as the "
            "last of them"
        )
    if not pooling.include_prompt:
        raise ExportError("pooling that leaves the prompt out (include_prompt=false) cannot be exported")
    for mode in SUPPORTED_POOLING:
        if pooling.pooling_mode == mode:
            return mode
    raise ExportError(f"pooling {pooling.pooling_mode!r} cannot be exported; one of {SUPPORTED_POOLING} can")


def require_fast_tokenizer(folder: Path) -> None:
    if not (folder / TOKENIZER_FILE).is_file():
        raise ExportError(
            f"the checkpoint's tokenizer has no fast form, so no {TOKENIZER_FILE} can be written"
        )


def query_matrix(model: SentenceTransformer) -> NDArray[np.float32] | None:
    """The matrix that the checkpoint has on the vectors of questions alone: float32 [dimensions, dimensions], or None.

    Raises:
        ExportError: questions and passages differ in another way.
    """
    router = next((module for module in model if type(module).__name__ == "Router"), None)
    return None if router is None else _matrix_of(router)


def _matrix_of(router: Any) -> NDArray[np.float32]:
    import torch

    routes = {name: list(route) for name, route in router.sub_modules.items()}
    layers = [layer for name in ("query", "document") for layer in routes.get(name, ())]
    if len(routes) == len(layers) == 2 and all(map(_is_matrix, layers)):
        asked, unchanged = (layer.linear.weight.detach().float() for layer in layers)
        if torch.equal(unchanged, torch.eye(len(unchanged))):
            return asked.numpy()
    raise ExportError(
        "a Router module can be exported if it multiplies the vectors of queries by a square matrix and leaves "
        "those of documents as they are; this one does something else"
    )


def _is_matrix(layer: Any) -> bool:
    """Whether a layer only multiplies by a square matrix."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    if not isinstance(layer, Dense) or layer.linear.bias is not None:
        return False
    square = layer.linear.in_features == layer.linear.out_features
    return square and isinstance(layer.activation_function, torch.nn.Identity)
