"""Packed texts give the vectors and the gradient of padded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from transformers import AutoConfig, AutoModel

from assets_pkg.finetune.model_io import add_lora, merge_lora
from assets_pkg.finetune.packing import FAMILIES, PACKED, groups_of, pack_texts
from tests.finetune.conftest import make_tokenizer

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "embedding_size": 32, "pad_token_id": 0,
}  # fmt: skip
LENGTHS = (3, 20, 1, 7, 19, 20, 3)


def make(folder: Path, family: str, pooling: Any = "mean", **changes: Any) -> SentenceTransformer:
    """A tiny random model without dropout."""
    torch.manual_seed(0)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    AutoModel.from_config(AutoConfig.for_model(family, **(SIZES | no_dropout | changes))).save_pretrained(
        folder
    )
    make_tokenizer(folder, 38)
    options = {"attn_implementation": "eager"}
    modules: list[Any] = [Transformer(str(folder), model_kwargs=options), Pooling(32, pooling)]
    return SentenceTransformer(modules=modules, device="cpu").train()


def features() -> dict[str, Tensor]:
    """Texts of random tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[int(place < length) for place in range(max(LENGTHS))] for length in LENGTHS])
    ids = torch.randint(5, 60, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def vectors_and_gradient(model: SentenceTransformer) -> tuple[Tensor, dict[str, Tensor]]:
    vectors = model(features())["sentence_embedding"]
    model.zero_grad()
    (vectors * torch.linspace(-1, 1, vectors.numel()).reshape(vectors.shape)).sum().backward()
    gradient = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return vectors.detach(), {name: each.clone() for name, each in gradient.items()}


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_vectors_and_gradient_are_those_of_padded_texts(family: str, pooling: str, tmp_path: Path) -> None:
    model = make(tmp_path, family, pooling)
    vectors, gradient = vectors_and_gradient(model)

    pack_texts(model)
    widths: list[torch.Size] = []
    network: Any = model[0].model
    network.encoder.layer[0].register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[:2]))
    packed, packed_gradient = vectors_and_gradient(model)

    assert widths == [(1, sum(LENGTHS) + 1)]  # 19 is padded to 20
    torch.testing.assert_close(packed, vectors, atol=1e-6, rtol=1e-5)
    assert packed_gradient.keys() == gradient.keys()
    for name, expected in gradient.items():
        torch.testing.assert_close(packed_gradient[name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_modules_after_the_transformer_get_padded_texts(tmp_path: Path) -> None:
    model = make(tmp_path, "bert")
    pack_texts(model)
    output = model(features())
    assert output["token_embeddings"].shape == (len(LENGTHS), max(LENGTHS), 32)
    assert torch.equal(output["attention_mask"], features()["attention_mask"])
    assert not output["token_embeddings"][output["attention_mask"] == 0].any()


def test_adapters_and_recomputed_activations_work(tmp_path: Path) -> None:
    padded, packed = (make(tmp_path / name, "bert") for name in ("padded", "packed"))
    pack_texts(packed)
    for model in (padded, packed):
        add_lora(model, rank=2, dropout=0.0, seed=0)
        network: Any = model[0].model
        network.gradient_checkpointing_enable()
    vectors, gradient = vectors_and_gradient(padded)
    own, own_gradient = vectors_and_gradient(packed)

    torch.testing.assert_close(own, vectors, atol=1e-6, rtol=1e-5)
    assert own_gradient.keys() == gradient.keys() != set()
    for name, expected in gradient.items():
        torch.testing.assert_close(own_gradient[name], expected, atol=1e-5, rtol=1e-4, msg=name)
    merge_lora(packed)
    torch.testing.assert_close(packed(features())["sentence_embedding"], own, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_dropout_of_attention_is_as_likely_as_set(tmp_path: Path) -> None:
    """Without it two passes are equal; with it they differ, and their mean goes to the vectors without."""
    model = make(tmp_path, "bert", attention_probs_dropout_prob=0.3)
    pack_texts(model)
    exact = model.eval()(features())["sentence_embedding"].detach()
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(features())["sentence_embedding"] for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    spread = drawn.std(dim=0) / len(drawn) ** 0.5
    assert ((drawn.mean(dim=0) - exact).abs() < 6 * spread + 0.01).all()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("modernbert", {"local_attention": 8}),  # sees a window only
        ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
        ("bert", {"is_decoder": True}),
        ("bert", {"output_hidden_states": True}),
    ],
)
def test_other_networks_stay_as_they_are(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(tmp_path, family, **changes)
    pack_texts(model)
    assert model[0].model.config._attn_implementation != PACKED  # pyright: ignore
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("lengths", "rows", "sizes"),
    [
        ((7,), [[0]], [7]),
        ((5, 5, 5), [[0, 1, 2]], [15]),
        ((10, 100, 9), [[1], [0, 2]], [100, 20]),  # one token of 20 is a twentieth
        ((10, 100, 8), [[1], [0], [2]], [100, 10, 8]),
        ((1, 40, 1, 39, 34), [[1, 3], [4], [0, 2]], [80, 34, 2]),
    ],
)
def test_texts_of_about_the_same_length_are_padded_to_the_longest(
    lengths: tuple[int, ...], rows: list[list[int]], sizes: list[int]
) -> None:
    groups = groups_of(lengths)
    assert [each.rows for each in groups] == rows
    assert [each.size for each in groups] == sizes
