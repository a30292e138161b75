"""A sweep trains every combination once, and keeps the one that is best on the validation questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.adapter import train_adapter
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.sweep import run_sweep, trials
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from tests.finetune.conftest import CPU, TrainingInputs, content_of

RATES = [1e-6, 1e-2]


class Killed(Exception):
    pass


@pytest.fixture
def train(inputs: TrainingInputs) -> Callable[[FinetuneSettings, Path], None]:
    encoder = SentenceTransformerEncoder(
        inputs.base.model, inputs.base.version, CPU, inputs.model.encoder_config()
    )

    def go(settings: FinetuneSettings, folder: Path) -> None:
        train_adapter(inputs.mined, inputs.base, inputs.model, settings, encoder, folder)

    return go


@pytest.mark.slow
def test_the_best_combination_is_kept_and_a_killed_sweep_repeats_none(
    inputs: TrainingInputs, train: Callable[[FinetuneSettings, Path], None], tmp_path: Path
) -> None:
    settings = inputs.settings(method="adapter", num_epochs=4, sweep={"learning_rate": RATES})
    trained: list[float] = []
    notes: list[str] = []

    def killed_at_the_second(chosen: FinetuneSettings, folder: Path) -> None:
        trained.append(chosen.learning_rate)
        if len(trained) == 2:
            raise Killed
        train(chosen, folder)

    with pytest.raises(Killed):
        run_sweep(inputs.mined, settings, tmp_path / "sweep", killed_at_the_second)
    run_sweep(inputs.mined, settings, tmp_path / "sweep", killed_at_the_second, notes.append)
    assert trained == [1e-6, 1e-2, 1e-2]
    assert notes[0] == "sweep: 2 trainings, 32 steps in all"
    summary: dict[str, Any] = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    scores = [row["validation_ndcg_after"] for row in summary["sweep"]]
    best = summary["sweep"][scores.index(max(scores))]
    assert summary["validation_ndcg_after"] == max(scores) > scores[0]
    (tmp_path / "alone").mkdir()
    alone = inputs.settings(method="adapter", num_epochs=4, learning_rate=best["learning_rate"])
    train(alone, tmp_path / "alone")
    assert content_of(tmp_path / "sweep") == content_of(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == [
        "loss.png",
        "model",
        "summary.json",
        "training.jsonl",
    ]


def test_combinations_in_order() -> None:
    profile = load_profile("laptop", ["finetune.sweep={temperature: [0.02, 0.05], num_epochs: [1, 2]}"])
    assert trials(profile.finetune) == [
        {"temperature": temperature, "num_epochs": epochs}
        for temperature in (0.02, 0.05)
        for epochs in (1, 2)
    ]


def test_wrong_values_are_named(
    inputs: TrainingInputs, train: Callable[[FinetuneSettings, Path], None], tmp_path: Path
) -> None:
    with pytest.raises(TrainingDataError, match=r"finetune\.sweep: temperature: .*temperature 3"):
        run_sweep(inputs.mined, inputs.settings(sweep={"temperature": [0.05, 3]}), tmp_path, train)
    with pytest.raises(ProfileError, match="seed"):
        load_profile("laptop", ["finetune.sweep={seed: [1, 2]}"])
