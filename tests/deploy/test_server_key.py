"""A server with a key: it reaches the server, its tests and everyone who asks, and is in no command, state or log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
import yaml

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.docker import container_spec, preflight
from assets_pkg.deploy.backends.own_image import IMAGE_FOLDER
from assets_pkg.deploy.deploy import shown_command
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_client import ServerKeyError, guard_of, server_key
from assets_pkg.deploy.server_state import DeployError, ServedModel
from tests.deploy.conftest import NAME, TEXTS, Deployments

KEY = "canary-0123456789"
PATH = "/v1/embeddings"


def _status(url: str, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    body = {"model": NAME, "input": ["text"], "input_type": "query"}
    return httpx2.post(url + PATH, json=body, headers=headers).status_code


@pytest.mark.slow
def test_a_key_replaces_an_open_server_and_is_asked_with_by_everyone(
    deployments: Deployments, models: tuple[ServedModel, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = deployments.deploy(models[0])
    assert guard_of(opened.url, PATH) == "open"
    assert deployments.changed() is None

    monkeypatch.setenv("RETUNE_API_KEY", KEY)
    assert "answers without a key" in str(deployments.changed())
    locked = deployments.deploy(models[0])
    assert not opened.alive()
    assert [_status(locked.url, key) for key in (None, "another", KEY)] == [401, 401, 200]
    assert guard_of(locked.url, PATH) == "our key"
    assert deployments.changed() is None
    assert deployments.deploy(models[0]) == locked
    encoder = ServedEncoder(locked.url, NAME, 32, "id")
    assert np.isfinite(encoder.embed(TEXTS, "query")).all()
    encoder.close()

    second = deployments.deploy(models[1])
    assert [_status(second.url, key) for key in (None, KEY)] == [401, 200]
    process = psutil.Process(int(second.handle.split()[1]))
    written = " ".join(file.read_text() for file in deployments.folder.iterdir())
    shown = shown_command(models[1], deployments.settings, deployments.folder)
    assert KEY not in " ".join(process.cmdline()) + written + shown + repr(second)

    monkeypatch.setenv("RETUNE_API_KEY", "another")
    assert "demands another key" in str(deployments.changed())
    assert guard_of(second.url, PATH) == "another key"
    encoder = ServedEncoder(second.url, NAME, 32, "id")
    with pytest.raises(DeployError, match="demands another key than the one in RETUNE_API_KEY"):
        encoder.embed(TEXTS, "query")
    encoder.close()
    third = deployments.deploy(models[1])
    assert [_status(third.url, key) for key in (None, KEY, "another")] == [401, 401, 200]


@pytest.mark.slow
def test_a_server_with_a_key_is_kept_where_there_is_none_and_never_replaced_by_an_open_one(
    deployments: Deployments, models: tuple[ServedModel, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETUNE_API_KEY", KEY)
    locked = deployments.deploy(models[0])
    monkeypatch.delenv("RETUNE_API_KEY")
    assert deployments.changed() is None
    assert deployments.deploy(models[0]) == locked
    with pytest.raises(DeployError, match="demands a key, and RETUNE_API_KEY is not set"):
        deployments.deploy(models[1])
    assert locked.alive()
    locked.stop()
    opened = deployments.deploy(models[1])
    assert _status(opened.url, None) == 200


@pytest.mark.parametrize("key", [" ", "key ", "\tkey", "k\ney", "clé", "k\x00y".replace("\x00", "\x7f")])
def test_a_key_that_no_header_can_hold_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETUNE_API_KEY", key)
    with pytest.raises(ServerKeyError, match="RETUNE_API_KEY begins or ends with a space") as caught:
        server_key()
    assert key.strip() == "" or key.strip() not in str(caught.value).replace("RETUNE_API_KEY", "")


def test_an_empty_variable_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETUNE_API_KEY", "")
    assert server_key() is None


# ---- containers, as values -----------------------------------------------------------------------------------


def test_a_container_gets_the_key_in_its_environment_only(
    settings: Callable[..., DeploySettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedModel(tmp_path / "onnx", tmp_path / "checkpoint", "d")
    wanted = settings(backend="docker")
    monkeypatch.delenv("RETUNE_API_KEY", raising=False)
    assert container_spec(served, wanted, tmp_path).secrets == ()
    monkeypatch.setenv("RETUNE_API_KEY", KEY)
    spec = container_spec(served, wanted, tmp_path)
    assert spec.creation()["environment"]["RETUNE_API_KEY"] == KEY
    command = spec.argv()
    assert command[command.index("RETUNE_API_KEY") - 1] == "--env"
    assert KEY not in spec.shell() + repr(spec) + shown_command(served, wanted, tmp_path)
    # The trial on a private port, too.
    assert replace(spec, name="trial", restart=False).creation()["environment"]["RETUNE_API_KEY"] == KEY


def test_a_nim_that_checks_no_key_is_refused(
    settings: Callable[..., DeploySettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx").mkdir()
    served = ServedModel(tmp_path / "onnx", tmp_path / "checkpoint", "d")
    monkeypatch.setenv("RETUNE_API_KEY", KEY)
    monkeypatch.setenv("NGC_API_KEY", "x")
    with pytest.raises(DeployError, match="checks no key"):
        preflight(served, settings(backend="docker", server="nim"), None, None)  # type: ignore[arg-type]


def test_the_command_of_vllm_names_the_variable(
    settings: Callable[..., DeploySettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedModel(tmp_path / "onnx", tmp_path / "checkpoint", "d")
    monkeypatch.setenv("RETUNE_API_KEY", KEY)
    shown = shown_command(served, settings(backend="vllm"), tmp_path)
    assert shown.startswith('VLLM_API_KEY="$RETUNE_API_KEY" vllm serve ')
    script = f"printf %s {shown.partition(' vllm ')[0]}"
    assert KEY not in shown
    assert subprocess.check_output(["sh", "-c", script], text=True) == f"VLLM_API_KEY={KEY}"


def test_the_compose_file_hands_the_key_on() -> None:
    file = yaml.safe_load((IMAGE_FOLDER / "docker" / "docker-compose.yaml").read_text())
    assert file["services"]["embedding"]["environment"]["RETUNE_API_KEY"] == "${RETUNE_API_KEY:-}"
