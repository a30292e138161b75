from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets_pkg.finetune.errors import DiskSpaceError
from assets_pkg.finetune.model_io import load_model
from assets_pkg.finetune.preflight import bytes_needed
from tests.finetune.conftest import TrainingInputs, steps_into
from tests.small_disk import small_disk


@pytest.mark.slow
def test_the_estimate_covers_what_is_written(inputs: TrainingInputs, tmp_path: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())

    largest = 0

    def watch(done: int, *_: Any, **__: Any) -> None:
        nonlocal largest
        largest = max(largest, size())

    inputs.finetune(tmp_path / "out", watch, checkpoint_every_steps=1)
    weights = sum(each.numel() for each in load_model(inputs.base.model, "cpu").parameters())
    estimate = bytes_needed(weights, weights)
    assert largest < estimate + 400_000  # of the tiny model's files most are not weights
    assert largest > estimate * 0.5


def test_a_disk_that_is_too_small_stops_before_the_first_step(inputs: TrainingInputs, tmp_path: Path) -> None:
    steps: list[int] = []
    message = r"writes up to 0\.\d\d GB, but .*out has 0\.00 GB free: free some"
    with small_disk(tmp_path / "out", "100k"), pytest.raises(DiskSpaceError, match=message):
        inputs.finetune(tmp_path / "out", steps_into(steps))
    assert steps == []
