"""Float32 linear layers on oneDNN: PyTorch sends theirs to MKL, which runs at half the speed on CPUs of other makers.

The operators are those that ``torch.compile`` substitutes for linear layers on a CPU; see
https://docs.pytorch.org/docs/stable/backends.html#module-torch.backends.mkldnn for the switch of the library.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """What ``linear`` computes, to rounding, for inference on a CPU: [..., in] to [..., out], float32.

    Its weight is kept in oneDNN's blocked layout only, so it takes no more memory than before; it is neither a
    parameter nor part of the state, and code that reads it gets a copy in the usual layout.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        return self._packed.to_dense()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, self._packed, self.bias, "none", [], "")


def for_inference(model: M, device: str, *, int8: bool = False) -> M:
    """``model`` on ``device``, ready to embed. On a CPU its plain float32 linear layers are replaced, where this
    PyTorch has oneDNN. With ``int8`` the weights of linear layers are first kept in 8 bits instead."""
    if int8:
        from resources.encoders.int8_linear import quantise

        quantise(model)
    model = model.to(device).eval()
    if device == "cpu" and torch.backends.mkldnn.is_available():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                    setattr(parent, name, PackedLinear(child))
    return model
