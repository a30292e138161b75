"""Whether a saved checkpoint is the model that was trained: checked after every save, before the folder is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assets_pkg.finetune.errors import SavedModelError
from assets_pkg.finetune.model_io import load_model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

PROBES = ("Open the valve slowly.", "red and blue", "How do I read a file that another program writes?")
SAME, SAME_ROUNDED = 1e-4, 0.05
"""The most that a number of a unit vector may differ between devices and kernels: in float32, and in 16 bits."""


def check_saved(
    model: SentenceTransformer,
    base: Path,
    target: Path,
    *,
    learned: bool,
    bf16: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Check that the folder ``target`` holds ``model``: the same weights, and the same vectors of a few short texts.

    Args:
        model: in memory, as it was saved.
        learned: training reports another quality than the base's; then the vectors must also differ from those of the
            folder ``base``.
        bf16: run ``model`` in bfloat16, as it was trained.

    Raises:
        SavedModelError: it does not.
    """
    import torch

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": torch.float32}
    saved = load_model(target, "cpu", **options)
    check_weights_saved(model.state_dict(), saved.state_dict(), target)
    vectors = probe(saved)
    del saved
    check_vectors(probe(model, bf16), vectors, target, rounded=bf16)
    if learned and np.array_equal(probe(load_model(base, "cpu", **options)), vectors):
        raise SavedModelError(
            f"{target}: training changed the model, but the saved one gives the base's vectors: the change is smaller "
            "than the base's dtype can store: raise finetune.learning_rate or num_epochs, or save the base as float32"
        )


def probe(model: SentenceTransformer, bf16: bool = False) -> NDArray[np.float32]:
    """Unit vectors of the probe texts as queries: float32 [n, d]."""
    import torch

    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        vectors: Any = model.encode_query(
            list(PROBES), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
    return vectors.float().cpu().numpy()


def check_vectors(
    expected: NDArray[np.float32], found: NDArray[np.float32], target: Path, *, rounded: bool
) -> None:
    """Check that the vectors of the saved folder ``target`` are those of the model in memory.

    Args:
        rounded: one of them was computed in 16 bits.

    Raises:
        SavedModelError: they are not.
    """
    most = SAME_ROUNDED if rounded else SAME
    if expected.shape == found.shape and float(np.abs(expected - found).max()) <= most:
        return
    raise SavedModelError(
        f"{target}: the saved model gives other vectors than the trained one in memory {_ADVICE}"
    )


def check_weights_saved(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], target: Path
) -> None:
    """Check that the weights of the saved folder ``target`` are those in memory, bit for bit.

    Raises:
        SavedModelError: they are not; names the first.
    """
    import torch

    def is_saved(name: str) -> bool:
        value = expected[name].cpu()
        return name in found and torch.equal(value, found[name].to(value.dtype))

    if lost := [name for name in expected if not is_saved(name)]:
        raise SavedModelError(
            f"{target}: {len(lost)} of {len(expected)} trained weights are not in the saved model, the first is "
            f"{lost[0]!r} {_ADVICE}"
        )


_ADVICE = (
    "(the base's folder may have an unusual layout): load the base with sentence-transformers, save it with "
    "save_pretrained, and set model.base_model to that folder"
)
