"""Tiny decoder checkpoints, made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 300
POSITIONS = 128


def make_llama(
    folder: Path, texts: Sequence[str], *, is_causal: bool, pooling: str = "mean", **prompts: str
) -> Path:
    """Save a random two-layer Llama as a sentence-transformers checkpoint, its tokenizer trained on ``texts``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import LlamaConfig, LlamaModel

    _byte_tokenizer(texts).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
    )
    config.is_causal = is_causal
    torch.manual_seed(0)
    LlamaModel(config).save_pretrained(folder)
    modules: list[Any] = [Transformer(str(folder)), Pooling(32, pooling_mode=pooling), Normalize()]  # type: ignore[arg-type]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder / "checkpoint"))
    return folder / "checkpoint"


def make_bidirectional_gemma(folder: Path, texts: Sequence[str]) -> Path:
    """As EmbeddingGemma: Gemma 3 with attention in both directions and sliding windows, here of 8 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import Gemma3TextConfig, Gemma3TextModel

    _byte_tokenizer(texts).save_pretrained(folder)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=POSITIONS,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=1,
        use_bidirectional_attention=True,
    )
    torch.manual_seed(0)
    Gemma3TextModel(config).save_pretrained(folder)
    modules: list[Any] = [Transformer(str(folder)), Pooling(32, pooling_mode="mean"), Normalize()]  # type: ignore[arg-type]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "checkpoint"))
    return folder / "checkpoint"


def _byte_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer as decoders have it: one token before each text, none after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", model_max_length=POSITIONS
    )
