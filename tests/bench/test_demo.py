"""The figures of ``bench/demo.py``, worked by hand."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from resources.models.shape import ModelShape
from tests.bench.conftest import load_script

TOY = ModelShape(
    parameters=700,
    largest=400,
    linear=((10, 20), (20, 10)),
    layers=2,
    hidden=10,
    inner=20,
    heads=2,
    gated=False,
    stored_bytes=2800,
)


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_script("demo")


def test_work_and_shares_of_a_stage(demo: ModuleType) -> None:
    embedding, training = demo.Kind(training=False, bf16=False), demo.Kind(training=True, bf16=False)
    stopwatch = demo.Stopwatch()
    stopwatch.started("checkpoint")
    stopwatch.passed(embedding, np.array([[1, 1, 1], [1, 0, 0]]), 6)
    stopwatch.passed(training, np.array([[1, 1]]), 2)
    stopwatch.finished("checkpoint")
    stage = stopwatch.stages["checkpoint"]
    # 2 x 400 weights x 4 tokens and 4 x 2 layers x 10 wide x (9 + 1); three passes of 2 x 400 x 2 and 4 x 2 x 10 x 4.
    assert stage.flop(TOY) == {embedding: 3200 + 800, training: 3 * (1600 + 320)}

    stage.cpu, stage.wall = 4.0, 2.0
    rate = {embedding: demo.Rate(4000.0, 2000.0), training: demo.Rate(11520.0, 5760.0)}
    # At the machine's rate the one takes a second and the other half of one; of CPU seconds twice as many.
    *_, row, total = demo.table({"raw_corpus": demo.Stage(1.0, 1.0), "checkpoint": stage}, TOY, rate)
    assert row == "| checkpoint | 4.0 | 2.0 | 3 | 6 | 25% | 0 | 0 | 75% | 75% |"
    assert total == "| all | 5.0 | 3.0 | | | | | | | |"
