"""What the adapters of local models share: loading with a clear error, precision, unit vectors."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resources.encoders.sentence_transformer import EncoderError
from resources.machine.accelerator import Accelerator
from resources.machine.memory_estimate import Numerics, loading_need
from resources.models.shape import read_shape

if TYPE_CHECKING:
    import torch

    from resources.encoders.base import Vectors

T = TypeVar("T")
LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError)
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "bfloat16"}
"""torch's name of each precision; for int8 that of the activations."""


def transformers(module: str = "") -> Any:
    """The transformers package, or a module of it, untyped: its own types are incomplete."""
    return import_module(f"transformers.{module}" if module else "transformers")


def load_checked(folder: Path, load: Callable[[], T]) -> T:
    """What ``load`` gives, without transformers' progress bars and notes.

    Raises:
        EncoderError: it failed; the message names the folder and why.
    """
    import safetensors

    logging = transformers("utils.logging")
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        return load()
    except (*LOADING_ERRORS, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EncoderError(f"{folder}: this model cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def admit_weights(folder: Path, accelerator: Accelerator, dtype: str) -> None:
    """Check that the weights in ``dtype`` (of `DTYPES`; float32 on a CPU) fit the accelerator; what batches take is
    not counted.

    Raises:
        NotEnoughMemoryError: they do not.
    """
    try:
        shape = read_shape(folder)
    except ValueError:
        return  # an unusual model: loading it succeeds or gives the reason
    wide = dtype == "fp32" or accelerator.device == "cpu"
    size = 1 if dtype == "int8" else 4 if wide else 2
    accelerator.admit(loading_need(shape, Numerics(accelerator.device, weight_bytes=size)))


def unit(vectors: torch.Tensor) -> Vectors:
    """Rows scaled to length 1, as float32 on the CPU.

    Raises:
        EncoderError: a row is not finite, or is zero and has no direction.
    """
    import numpy as np

    rows = vectors.float().cpu().numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = ~(np.isfinite(norms) & (norms > 0))
    if broken.any():
        raise EncoderError(
            f"the model gave {int(broken.sum())} of {len(rows)} vectors that are zero or not finite: its weights "
            "are broken, or too large for this precision"
        )
    return rows / norms
