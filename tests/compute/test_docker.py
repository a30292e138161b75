"""A stage in a container of a real Docker engine."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resources.containers import ContainerEngine
from tests.command.conftest import Workplace
from tests.compute.conftest import OWN_PAIRS
from tests.loopback import free_port


@pytest.fixture
def docked(place: Workplace, base_image: str, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """With the recipe's table, which names no image."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as inside: sums of floats depend on the number of threads
    (place.home / "env.toml").write_text(
        '[local-docker]\nexecutor = "docker"\nipc_mode = "host"\nshm_size = "16g"\n'
        'mounts = ["./data:/workspace/data", "./output:/workspace/output"]\nenv_vars = { OMP_NUM_THREADS = "1" }\n',
        "utf-8",
    )
    return replace(place, extra={"RETUNE_BASE_IMAGE": base_image})


def versions(place: Workplace, asset: str) -> list[str]:
    return sorted(path.name for path in (place.home / "output" / "artifacts" / asset).iterdir())


def test_a_container_trains_the_same_checkpoint(
    docked: Workplace, prepared: Workplace, tmp_path: Path, engine_address: str
) -> None:
    code, output = docked.retune("finetune", "--run", "local-docker")
    assert code == 0, output
    twin = Workplace(shutil.copytree(prepared.home, tmp_path / "twin", symlinks=True), free_port())
    code, output = twin.retune("finetune")
    assert code == 0, output
    assert versions(docked, "checkpoint") == versions(twin, "checkpoint")
    engine = ContainerEngine(engine_address)
    assert not engine.labelled("retune", "job")
    engine.close()


def test_an_interrupt_removes_the_container(docked: Workplace, engine_address: str) -> None:
    import signal

    command = docked.start(*OWN_PAIRS, "--run", "local-docker")
    engine = ContainerEngine(engine_address)
    deadline = time.monotonic() + 60
    while not engine.labelled("retune", "job"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=90)
    assert command.returncode != 0
    assert not engine.labelled("retune", "job")
    engine.close()


def test_a_container_that_is_removed_while_they_are_listed_is_left_out(
    engine_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ContainerEngine(engine_address)
    api = engine._client.api
    listed = api.containers
    monkeypatch.setattr(api, "containers", lambda **options: [*listed(**options), {"Id": "0" * 64}])
    assert engine.labelled("retune", "job") == []
    engine.close()


def test_an_image_that_is_nowhere_is_said_plainly(docked: Workplace) -> None:
    code, output = docked.retune(
        "finetune", "--run", "local-docker", "run.env.container_image=nowhere/image:1"
    )
    assert code == 1, output
    assert "cannot pull nowhere/image:1" in output
    assert "Traceback" not in output


def test_no_engine_is_said_before_anything_is_recorded(
    docked: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    code, output = docked.retune("finetune", "--run", "local-docker")
    assert (code, "no Docker engine answers" in output) == (1, True)
    assert not (docked.home / "output" / ".jobs").exists()
