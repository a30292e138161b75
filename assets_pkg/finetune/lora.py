"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) by peft, merged before the model is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def add_lora(model: SentenceTransformer, rank: int, dropout: float, seed: int) -> None:
    """Freeze the transformer and put trainable adapters of ``rank`` beside all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)  # the adapters begin at random
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", bias="none"
    )
    transformer: Any = model[0]
    transformer.model = get_peft_model(transformer.model, config)


def merge_lora(model: SentenceTransformer) -> None:
    """Add the adapters into the weights they adapt, so that the model is a plain one again."""
    transformer: Any = model[0]
    transformer.model = transformer.model.merge_and_unload()
