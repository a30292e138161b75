"""The number format of training: what the settings say, or what is faster here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune import model_io, run
from assets_pkg.finetune.model_io import use_bf16
from assets_pkg.finetune.train import finetune
from resources.encoders import speed
from resources.encoders.speed import TrainingRates, cpu_training_rates
from storage.progress import no_progress
from tests.finetune.conftest import CPU, TrainingInputs, steps_into

Settings = Callable[..., FinetuneSettings]
WITH_BF16 = replace(CPU, bf16=True)
SLOWER, FASTER, ALIKE = TrainingRates(150e9, 104e9), TrainingRates(181e9, 380e9), TrainingRates(100e9, 105e9)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingRates], None]:
    def set_rates(rates: TrainingRates) -> None:
        for module in (model_io, run):
            monkeypatch.setattr(module, "cpu_training_rates", lambda: rates)

    return set_rates


@pytest.mark.parametrize(("rates", "chosen"), [(SLOWER, False), (FASTER, True), (ALIKE, False)])
def test_auto_is_bf16_on_a_cpu_that_is_faster_with_it(
    settings: Settings, measured: Callable[[TrainingRates], None], rates: TrainingRates, chosen: bool
) -> None:
    measured(rates)
    auto = settings(precision="auto")
    assert use_bf16(auto, WITH_BF16) is chosen
    assert use_bf16(auto, replace(WITH_BF16, device="cuda")) is True
    assert use_bf16(auto, CPU) is False
    assert use_bf16(settings(precision="bf16"), CPU) is True
    assert use_bf16(settings(precision="fp32"), WITH_BF16) is False


def test_the_rates_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SIZE", 64)
    cpu_training_rates.cache_clear()
    rates = cpu_training_rates()
    assert min(rates) > 0
    assert cpu_training_rates() is rates
    cpu_training_rates.cache_clear()
    assert str(SLOWER) == "150 GFLOP/s in fp32, 104 in bf16"


class Killed(Exception):
    pass


@pytest.mark.slow
def test_the_choice_is_logged_and_an_interrupted_training_keeps_it(
    inputs: TrainingInputs, measured: Callable[[TrainingRates], None], tmp_path: Path
) -> None:
    notes: list[str] = []

    def killed(done: int, total: int, unit: str, **figures: float) -> None:
        if unit == "steps" and done == 6:
            raise Killed

    def go(progress: object = no_progress) -> None:
        auto = inputs.settings(precision="auto")
        finetune(inputs.mined, inputs.base, inputs.model, auto, WITH_BF16, tmp_path, progress, notes.append)  # type: ignore[arg-type]

    measured(SLOWER)
    with pytest.raises(Killed):
        go(killed)
    assert "trains in fp32: this CPU multiplies at 150 GFLOP/s in fp32, 104 in bf16, measured now" in notes
    measured(FASTER)
    steps: list[int] = []
    go(steps_into(steps))
    assert steps[0] > 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["precision"] == "fp32"
    assert torch.isfinite(torch.tensor(summary["final_loss"]))
