"""Which steps hold the lock on this machine's accelerator: those whose work runs on this machine."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from tests.command.conftest import Workplace
from tests.compute.accelerator_lock_steps import busy_accelerator, run_at_once
from tests.conftest import write_profile

DOCKED = 'executor = "docker"\ncontainer_image = "retune:latest"'


def test_a_child_waits_for_the_lock(place: Workplace) -> None:
    with busy_accelerator(place) as instance:
        command = place.start("finetune", "--run", "child")
        deadline = time.monotonic() + 60
        while not _waiting(instance):
            assert time.monotonic() < deadline
            assert command.poll() is None, command.communicate()[0]
            time.sleep(0.1)
        assert place.job() is None
    job = place.await_job()  # it has the lock now; what it would make needs a model, and other tests make it
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    psutil.wait_procs([job], timeout=60)


@pytest.mark.slow
def test_two_processes_share_the_lock_with_the_history_in_files(tmp_path: Path) -> None:
    run_at_once(tmp_path, {})


def _waiting(instance: object) -> bool:
    info = instance.event_log_storage.get_concurrency_info("gpu")  # type: ignore[attr-defined]
    return len(info.pending_steps) > 0


@pytest.mark.parametrize(
    ("described", "engine", "pool"),
    [
        ('executor = "inline"', None, "gpu"),
        ('executor = "subprocess"', None, "gpu"),
        ('executor = "slurm"', None, None),
        ('executor = "ray"\naddress = "local"', None, "gpu"),
        ('executor = "ray"\naddress = "http://head:8265"', None, None),
        (DOCKED, None, "gpu"),
        (DOCKED, "unix:///run/user/1000/docker.sock", "gpu"),
        (DOCKED, "tcp://localhost:2375", "gpu"),
        (DOCKED, "tcp://10.0.0.7:2376", None),
        (DOCKED, "ssh://me@gpu-box", None),
    ],
)
def test_a_step_claims_the_accelerator_that_its_stage_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: str, engine: str | None, pool: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    if engine:
        monkeypatch.setenv("DOCKER_HOST", engine)
    (tmp_path / "env.toml").write_text(f"[there]\n{described}\n", "utf-8")
    settings = write_profile(tmp_path / "p.yaml", corpus=tmp_path, model=tmp_path, root=tmp_path / "output")
    profile = load_profile(str(settings), ["compute.stages={finetune: there, eval: there}"])
    graph = build_definitions(profile).resolve_asset_graph()
    pools = {made.op.name: made.op.pool for made in graph.assets_defs}
    assert pools["checkpoint"] == pools["eval_metrics"] == pool
    assert pools["promoted_model"] == pools["mined_train_set"] == pools["embed_and_index"] == "gpu"
    assert pools["raw_corpus"] is None
