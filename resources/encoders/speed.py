"""How fast this machine computes linear layers, which is what a transformer spends its time on: the most that embedding
and training can reach."""

from __future__ import annotations

import time
from collections.abc import Callable

SIZE = 1024
"""Inputs, outputs and rows of the layer that is measured."""

MEASURED_SECONDS = 0.3
FORWARD = 2 * SIZE**3
"""FLOP of one application of the layer; its backward pass has twice as many."""


def inference_rate(device: str, *, bf16: bool) -> float:
    """FLOP a second of linear layers as embedding runs them on the torch ``device``."""
    import torch

    from resources.encoders.packed_linear import for_inference

    layer = for_inference(torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE, bias=False)), device)
    rows = torch.randn(SIZE, SIZE, device=device)

    def step() -> None:
        with torch.no_grad(), torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            layer(rows)

    return FORWARD * _repetitions_per_second(step, device)


def training_rate(device: str, *, bf16: bool) -> float:
    """FLOP a second of linear layers as training runs them on the torch ``device``, forward and backward."""
    import torch

    layer = torch.nn.Linear(SIZE, SIZE, bias=False, device=device)
    rows = torch.randn(SIZE, SIZE, device=device, requires_grad=True)

    def step() -> None:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
            layer(rows).sum().backward()

    return 3 * FORWARD * _repetitions_per_second(step, device)


def _repetitions_per_second(step: Callable[[], None], device: str) -> float:
    import torch

    def synchronize() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    step()  # chooses kernels, and fills caches
    synchronize()
    started, done, elapsed = time.perf_counter(), 0, 0.0
    while not done or elapsed < MEASURED_SECONDS:
        step()
        synchronize()
        done, elapsed = done + 1, time.perf_counter() - started
    return done / elapsed
