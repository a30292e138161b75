"""Loading a checkpoint's model, the same way wherever this stage needs one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.finetune.settings import FinetuneSettings
from assets_pkg.settings import ModelSettings
from resources.accelerator import Accelerator

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_model(
    folder: Path, device: str, *, trust_remote_code: bool = False, **model_options: Any
) -> SentenceTransformer:
    """The model in ``folder``, nothing looked up on the network; ``model_options`` go to transformers."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        model_kwargs=model_options,
    )


def load_for_training(
    folder: Path, model: ModelSettings, settings: FinetuneSettings, accelerator: Accelerator
) -> SentenceTransformer:
    """The model in float32 (the master weights of mixed precision), with the profile's attention and dropout."""
    import torch

    loaded = load_model(
        folder,
        accelerator.device,
        trust_remote_code=model.trust_remote_code,
        dtype=torch.float32,
        attn_implementation=attention(model, settings, accelerator),
    )
    _limit_dropout(loaded, settings.dropout)
    return loaded


def use_bf16(settings: FinetuneSettings, accelerator: Accelerator) -> bool:
    """Whether matrix products run in bfloat16 (weights, loss and optimizer stay float32)."""
    return settings.precision == "bf16" or (settings.precision == "auto" and accelerator.bf16)


def attention(model: ModelSettings, settings: FinetuneSettings, accelerator: Accelerator) -> str:
    """The fastest attention that the machine has, unless the profile names one.

    On a CPU that is ``eager``: backward through the fused kernel costs more there than it saves.
    """
    if model.attn_implementation != "auto":
        return model.attn_implementation
    if not accelerator.device.startswith("cuda"):
        return "eager"
    flash = importlib.util.find_spec("flash_attn") is not None and use_bf16(settings, accelerator)
    return "flash_attention_2" if flash else "sdpa"


def _limit_dropout(model: SentenceTransformer, most: float) -> None:
    """Lower every dropout to at most ``most``; a model that was made without dropout stays without."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = min(module.p, most)
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = min(module.attention_dropout, most)  # pyright: ignore
