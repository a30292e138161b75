"""Sizes of networks, read from files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resources.models.shape import read_shape


def test_minilm(minilm: Path) -> None:
    shape = read_shape(minilm)
    assert (shape.layers, shape.hidden, shape.inner, shape.heads) == (6, 384, 1536, 12)
    assert shape.parameters == 22_713_728  # 22.7 million, as its model card says
    assert shape.largest == 30_522 * 384  # the vocabulary
    assert not shape.gated


@pytest.mark.parametrize("kind", ["bert", "llama", "distilbert"])
def test_what_transformers_loads(kind: str, tmp_path: Path) -> None:
    """Against the modules that transformers makes of the same configuration."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        LlamaConfig,
        LlamaModel,
        PreTrainedModel,
    )

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    models: dict[str, PreTrainedModel] = {
        "bert": BertModel(BertConfig(vocab_size=50, **sizes)),
        "llama": LlamaModel(LlamaConfig(vocab_size=50, **sizes)),
        "distilbert": DistilBertModel(
            DistilBertConfig(vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=48)
        ),
    }
    model = models[kind]
    model.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    assert sorted(shape.linear) == sorted((each.out_features, each.in_features) for each in linear)
    assert (shape.layers, shape.hidden, shape.inner, shape.heads) == (3, 32, 48, 4)
    assert shape.gated is (kind == "llama")


def test_the_part_that_reads_text_counts(tmp_path: Path, minilm: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(minilm / "model.safetensors")
    text = {"num_hidden_layers": 7, "hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 80}
    config = {"model_type": "both", "text_config": text, "vision_config": {"num_hidden_layers": 99}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path).layers == 7


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ("{}", b"", "says nothing of the number of layers, hidden, heads"),
        ('{"n_layers": 1, "dim": 2, "n_heads": 1}', None, "no weights"),
        ('{"n_layers": 1, "dim": 2, "n_heads": 1}', b"\xff" * 20, "model.safetensors: damaged"),
    ],
)
def test_files_without_sizes(tmp_path: Path, config: str, weights: bytes | None, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=message):
        read_shape(tmp_path)
