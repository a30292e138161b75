"""Two processes train what one would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from assets_pkg.finetune.errors import TrainingStopped
from assets_pkg.finetune.launch import finetune_here
from assets_pkg.finetune.loading import load_model
from assets_pkg.profile import FinetuneSettings, ModelSettings
from storage.artifacts import Checkpoint, MinedTrainSet
from tests.finetune.conftest import CPU

Train = Callable[..., Path]


@pytest.fixture
def train(
    mined: MinedTrainSet,
    base: Checkpoint,
    model_settings: ModelSettings,
    settings: Callable[..., FinetuneSettings],
    tmp_path: Path,
) -> Train:
    def go(processes: int, progress: Any = lambda *_, **__: None, **changes: Any) -> Path:
        folder = tmp_path / f"in{processes}"
        folder.mkdir(exist_ok=True)
        chosen = settings(num_processes=processes, learning_rate=1e-3, **changes)
        finetune_here(mined, base, model_settings, chosen, CPU, folder, progress)
        return folder

    return go


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {"global_batch_size": 13, "in_batch_negatives": False},  # shares of 7 and 6
        {"local_batch_size": 1, "matryoshka_dims": [8]},
    ],
)
def test_two_processes_have_the_loss_curve_and_weights_of_one(train: Train, changes: dict[str, Any]) -> None:
    seen: list[int] = []
    two = train(2, lambda done, *_, **__: seen.append(done), **changes)
    one = train(1, **changes)
    assert seen == list(range(1, len(losses(one)) + 1))
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert max(losses(one)) - min(losses(one)) > 0.05  # no flat line, that anything would fit
    mine, theirs = (load_model(each / "model" / "consolidated", "cpu").state_dict() for each in (one, two))
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=2e-4)


def test_what_stops_one_process_is_told(
    base: Checkpoint, model_settings: ModelSettings, settings: Callable[..., FinetuneSettings], tmp_path: Path
) -> None:
    nothing = MinedTrainSet(tmp_path / "nothing", "mined_train_set", "none")
    with pytest.raises(TrainingStopped, match=r"RetrieverFileError: .*nothing"):
        finetune_here(nothing, base, model_settings, settings(num_processes=2), CPU, tmp_path)
