"""The machine's speed, in FLOP that torch counts itself."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from assets_pkg.cli.diagnostics import most_texts
from resources.encoders import speed
from resources.models.shape import ModelShape


def test_the_work_is_counted_as_torch_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MEASURED_SECONDS", 0.0)
    layer, rows = torch.nn.Linear(speed.SIZE, speed.SIZE), torch.randn(speed.SIZE, speed.SIZE)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        layer(rows)
    assert forward.get_total_flops() == speed.FORWARD
    with FlopCounterMode(display=False) as training:
        assert speed.training_rate("cpu", bf16=False) > 0
    assert training.get_total_flops() == 2 * 3 * speed.FORWARD  # the first step is not measured
    assert speed.inference_rate("cpu", bf16=False) > 0


def test_texts_a_second_of_a_network_worked_by_hand() -> None:
    shape = ModelShape(10_000, 5_000, ((100, 50), (50, 100)), 1, 50, 100, 2, False, 40_000)
    # 10,000 weights, 2 FLOP each for each of 100 tokens: 2 MFLOP a text.
    assert most_texts(shape, 2e9, 1) == "at most 1,000 texts of 100 tokens a second"
    assert most_texts(shape, 6e9, 3) == "at most 1,000 texts of 100 tokens a second"
