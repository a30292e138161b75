"""Linear layers whose weights are kept in 8 bits: a quarter of the memory of float32, a half of bfloat16.

Each row of a weight is scaled by its largest absolute value and rounded to -127..127 (absmax quantisation for each
output channel, without outliers set apart; Dettmers et al. 2022, arXiv 2208.07339, section 2). Activations are not
quantised: a row is scaled back after the product, so that results depend on no other item of a batch.
"""

from __future__ import annotations

import torch
from torch import nn

LARGEST = 127


class Int8Linear(nn.Module):
    """What ``linear`` computes with its weight in 8 bits: [..., in] to [..., out], in the input's type."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        full = linear.weight.detach().float()
        scale = (full.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", torch.round(full / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias: nn.Parameter | None = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        product = nn.functional.linear(input, self.weight.to(input.dtype)) * self.scale.to(input.dtype)
        return product if bias is None else product + bias


def quantise(model: nn.Module) -> None:
    """Replace the linear layers of a model, where it is, by those with weights in 8 bits."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))
