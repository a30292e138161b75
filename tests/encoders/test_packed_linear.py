"""Linear layers on oneDNN against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)

from resources.encoders.packed_linear import PackedLinear, for_inference

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 48), (3, 5, 48), (1, 48), (0, 48)])
def test_it_computes_what_a_linear_layer_computes(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, given = nn.Linear(48, 24, bias=bias), torch.randn(shape)
    packed = PackedLinear(linear)
    with torch.inference_mode():
        torch.testing.assert_close(packed(given), linear(given))
        if given.ndim == 3:
            turned = given.transpose(0, 1)
            torch.testing.assert_close(packed(turned), linear(turned))
        torch.testing.assert_close(packed.weight, linear.weight.detach())


@pytest.mark.parametrize(
    "model",
    [
        BertModel(BertConfig(**SMALL, vocab_size=99)),
        LlamaModel(LlamaConfig(**SMALL, vocab_size=99, num_key_value_heads=2)),
        CLIPModel(CLIPConfig(text_config={**SMALL, "vocab_size": 99}, vision_config=SMALL)).text_model,
    ],
    ids=["bert", "llama", "clip"],
)
def test_a_network_gives_the_same_states(model: PreTrainedModel) -> None:
    ids = torch.randint(1, 99, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.inference_mode():
        before = model.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        packed = for_inference(model, "cpu")
        after = packed(input_ids=ids, attention_mask=mask).last_hidden_state
    assert linear
    assert [name for name, module in packed.named_modules() if isinstance(module, PackedLinear)] == linear
    torch.testing.assert_close(after, before, atol=2e-6, rtol=2e-5)


def test_other_layers_and_types_stay() -> None:
    network = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    kept, attention, last = for_inference(network, "cpu")
    assert type(kept) is nn.Linear
    assert type(attention.out_proj) is not PackedLinear
    assert type(last) is PackedLinear
