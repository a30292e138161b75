"""How fast this machine computes linear layers, which is what a transformer spends its time on: the most that embedding
and training can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

SIZE = 1024
"""Inputs, outputs and rows of the layer that is measured."""

MEASURED_SECONDS = 0.3
FORWARD = 2 * SIZE**3
"""FLOP of one application of the layer; its backward pass has twice as many."""


WORTH_ROUNDING = 1.1
"""bfloat16 rounds more coarsely than float32: it is used where it is this many times as fast."""


class TrainingRates(NamedTuple):
    """FLOP a second of linear layers in training."""

    fp32: float
    bf16: float

    @property
    def bf16_is_faster(self) -> bool:
        return self.bf16 >= WORTH_ROUNDING * self.fp32

    def __str__(self) -> str:
        return f"{self.fp32 / 1e9:,.0f} GFLOP/s in fp32, {self.bf16 / 1e9:,.0f} in bf16"


@cache
def cpu_training_rates() -> TrainingRates:
    """Those of this CPU, measured once: some that have instructions for bfloat16 are slower with them."""
    return TrainingRates(training_rate("cpu", bf16=False), training_rate("cpu", bf16=True))


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
