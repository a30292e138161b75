"""Tiny checkpoints to export, and texts to compare on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VOCABULARY = 300


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real prose of many lengths: docstrings, one word to several hundred."""
    import inspect
    import json
    import os

    documented = [
        value for module in (inspect, json, os) for value in vars(module).values() if callable(value)
    ]
    found = [inspect.cleandoc(value.__doc__) for value in documented if isinstance(value.__doc__, str)]
    return ["Retune", *sorted({text for text in found if 20 < len(text) < 3000})[:40]]


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Callable[..., Path]:
    """Builds a random two-layer Llama checkpoint, causal or not, of the pooling asked for."""

    def make(*, is_causal: bool, pooling: str = "mean", **prompts: str) -> Path:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from transformers import LlamaConfig, LlamaModel

        folder = tmp_path_factory.mktemp("llama")
        _byte_tokenizer(texts).save_pretrained(folder)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
        config.is_causal = is_causal
        torch.manual_seed(0)
        LlamaModel(config).save_pretrained(folder)
        transformer = Transformer(str(folder))
        modules: list[Any] = [transformer, Pooling(32, pooling_mode=pooling), Normalize()]  # type: ignore[arg-type]
        SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder / "checkpoint"))
        return folder / "checkpoint"

    return make


def _byte_tokenizer(texts: list[str]) -> Any:
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
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", model_max_length=128
    )
