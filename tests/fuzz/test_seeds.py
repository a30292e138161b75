"""Every reader foresees the files that some reader once did not."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.run import kept_seeds, mutate
from tests.fuzz.targets import TARGETS, try_target


@pytest.mark.parametrize("name", TARGETS)
def test_right_files_are_read(name: str) -> None:
    for data in TARGETS[name].seeds:
        assert try_target(TARGETS[name], data) == "read"


@pytest.mark.parametrize("name", TARGETS)
def test_kept_and_changed_files_are_read_or_refused_in_words(name: str) -> None:
    rng = random.Random(name)
    seeds = [*TARGETS[name].seeds, *kept_seeds(name)]
    for data in [*seeds, *(mutate(rng, rng.choice(seeds), seeds) for _ in range(12))]:
        try_target(TARGETS[name], data)
