"""What a running server was started with: any difference is named by the plan, and replaces the server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.docker import container_configuration
from assets_pkg.deploy.configuration import configuration, differences, served_names, with_model
from assets_pkg.deploy.deploy import read_state
from assets_pkg.deploy.server_state import ServedModel
from tests.deploy.conftest import NAME, TEXTS, Deployments

Make = Callable[..., DeploySettings]


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        (
            "process",
            {"host": "127.0.0.2", "host_port": 1, "served_model_name": "x", "max_client_batch_size": 7},
        ),
        (
            "docker",
            {"server_image": "x", "container_name": "x", "gpus": "all", "shm_size": "1g", "server": "nim"},
        ),
        ("docker", {"max_client_batch_size": 7, "host": "127.0.0.2"}),
        ("vllm", {"served_model_name": "x", "host_port": 1}),
    ],
)
def test_every_setting_that_decides_is_named(settings: Make, backend: str, changes: dict[str, Any]) -> None:
    before = configuration(settings(backend=backend), {})
    for name, value in changes.items():
        after = configuration(settings(backend=backend, **{name: value}), {})
        assert f"deploy.{name}" in differences(before, after), name
    assert differences(before, configuration(settings(backend=backend, startup_timeout_s=7), {})) == []


def test_variables_of_the_server_are_named_and_their_values_are_not_kept(settings: Make) -> None:
    chosen = settings(backend="process")
    before = configuration(chosen, {"RETUNE_API_KEY": "one", "PATH": "/a"})
    given = {"NIM_TRITON_MAX_SEQ_LENGTH": "64", "RETUNE_API_KEY": "two", "PATH": "/b", "NIM_LOG_LEVEL": ""}
    after = configuration(chosen, given)
    assert differences(before, after) == ["NIM_TRITON_MAX_SEQ_LENGTH"]
    assert "64" not in after.values()
    assert differences(before, configuration(chosen, {"NIM_HTTP_API_PORT": "9"})) == []
    vllm = settings(backend="vllm")
    assert differences(configuration(vllm, {}), configuration(vllm, {"VLLM_LOGGING_LEVEL": "x"})) == [
        "VLLM_LOGGING_LEVEL"
    ]


def test_the_model_counts_where_one_is_named(settings: Make, models: tuple[ServedModel, ServedModel]) -> None:
    chosen = settings(backend="docker")
    first, second = (container_configuration(each, chosen) for each in models)
    assert differences(first, second) == ["the exported model", "the model"]
    assert differences(first, configuration(chosen)) == []


def test_names_of_the_environment_are_aliases(settings: Make) -> None:
    chosen = settings()
    assert served_names(chosen, {}) == NAME
    assert served_names(chosen, {"NIM_SERVED_MODEL_NAME": f"other, {NAME},third"}) == f"{NAME},other,third"


def _names(url: str) -> list[str]:
    return [each["id"] for each in httpx2.get(f"{url}/v1/models").json()["data"]]


def _embed(url: str, name: str, texts: int = 1) -> int:
    body = {"model": name, "input": [TEXTS[0]] * texts}
    return httpx2.post(f"{url}/v1/embeddings", json=body).status_code


@pytest.mark.slow
def test_a_changed_setting_replaces_the_server(
    deployments: Deployments,
    models: tuple[ServedModel, ServedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    running = deployments.deploy(models[0])

    def replaced(*reasons: str, served: ServedModel = models[0]) -> Any:
        nonlocal running
        changed = deployments.changed()
        assert all(reason in str(changed) for reason in reasons) if reasons else changed is None
        old, running = running, deployments.deploy(served)
        assert old.handle != running.handle
        assert not old.alive()
        assert deployments.changed() is None
        assert deployments.deploy(served) == running
        return running

    changes = {"served_model_name": "renamed", "max_client_batch_size": 3}
    deployments.settings = deployments.settings.model_copy(update=changes)
    deployments.smoke = lambda url: None
    monkeypatch.setenv("NIM_SERVED_MODEL_NAME", "alias")
    monkeypatch.setenv("NIM_TRITON_MAX_SEQ_LENGTH", "16")
    variables = ("NIM_SERVED_MODEL_NAME", "NIM_TRITON_MAX_SEQ_LENGTH")
    url = replaced("other values of ", *(f"deploy.{name}" for name in changes), *variables).url
    assert _names(url) == ["renamed", "alias", NAME]
    assert _embed(url, "alias") == 200
    assert [_embed(url, NAME, texts) for texts in (3, 4)] == [200, 400]
    assert httpx2.get(f"{url}/v1/metadata").json()["maxLength"] == 16

    deployments.settings = deployments.settings.model_copy(update={"host": "127.0.0.2"})
    assert replaced("other values of deploy.host").url.startswith("http://127.0.0.2:")

    again = replace(models[0], onnx=tmp_path / "another export")
    shutil.copytree(models[0].onnx, again.onnx)
    process = psutil.Process(int(replaced(served=again).handle.split()[1]))
    assert str(again.onnx) in process.cmdline()


@pytest.mark.slow
def test_a_state_of_an_earlier_version_is_kept_until_the_next_deployment(
    deployments: Deployments, models: tuple[ServedModel, ServedModel]
) -> None:
    first = deployments.deploy(models[0])
    file = deployments.folder / "server.json"
    state = json.loads(file.read_text())
    del state["configuration"]
    file.write_text(json.dumps(state))
    kept = read_state(deployments.folder)
    assert kept is not None
    assert kept.handle == first.handle
    assert deployments.changed() is None
    assert deployments.deploy(models[0]).handle != first.handle


def test_the_export_counts_for_every_backend(settings: Make, models: tuple[ServedModel, ServedModel]) -> None:
    chosen = settings(backend="process")
    one, two = (with_model(chosen, each.onnx, "same digest") for each in models)
    assert differences(one, two) == ["the exported model"]
