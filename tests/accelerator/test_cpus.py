"""The cores that a process may use, as those who limit them say: the scheduler by affinity, a container by quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from assets_pkg.finetune.launch import threads_each
from assets_pkg.nim import model
from resources.machine import cpus
from resources.machine.cpus import usable_cpus


@pytest.fixture
def one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_affinity_limits_readers_server_and_training_processes(one_core: None) -> None:
    assert usable_cpus() == 1
    assert model.usable_cpus() == 1
    assert threads_each(1) == 1
    assert threads_each(4) == 1


@pytest.mark.parametrize(("quota", "cores"), [("300000 100000", 3), ("50000 100000", 1), ("max 100000", 8)])
def test_a_containers_quota_limits_whole_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cpus, "QUOTA_FILE", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cpus() == cores
    assert threads_each(2) == max(1, cores // 2)


def test_a_system_without_affinity_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(cpus, "QUOTA_FILE", Path("/nowhere"))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus() == 6
    assert model.usable_cpus() >= 1
