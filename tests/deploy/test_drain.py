"""A long request that was accepted is answered while its server is replaced and stopped; TLS is kept."""

from __future__ import annotations

import pytest

from assets_pkg.deploy.backends import process as processes
from assets_pkg.deploy.deploy import deploy, stop_deployed
from assets_pkg.deploy.server_client import get_fields
from assets_pkg.deploy.server_state import DeployError, ServedModel
from tests.deploy.conftest import Deployments, no_engine
from tests.deploy.load import LONG, LongRequest
from tests.nim.certificates import make_certificate


@pytest.mark.slow
def test_a_long_request_survives_replace_and_stop_over_tls(
    deployments: Deployments,
    models: tuple[ServedModel, ServedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for name, value in make_certificate(tmp_path_factory.mktemp("tls")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NIM_ENGINE_COUNT", "1")
    monkeypatch.setattr(processes, "NOTE_SECONDS", 0.2)
    said: list[str] = []
    first = deployments.deploy(models[0])
    assert first.url.startswith("https://")
    with LongRequest(first.url) as accepted:
        second = deploy(
            models[1],
            deployments.settings,
            deployments.folder,
            deployments.smoke,
            no_engine,
            note=said.append,
        )
        assert accepted.answered() == len(LONG)
    assert get_fields(second.url, "/v1/metadata")["modelDigest"] == models[1].digest
    with LongRequest(second.url) as accepted:
        assert stop_deployed(deployments.folder, said.append) == second
        assert accepted.answered() == len(LONG)
    assert any(line.startswith(f"{second.handle} still answers requests") for line in said)


@pytest.mark.slow
def test_a_server_with_tls_is_never_replaced_by_one_without(
    deployments: Deployments,
    models: tuple[ServedModel, ServedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = make_certificate(tmp_path_factory.mktemp("tls"))
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    secure = deployments.deploy(models[0])
    for name in files:
        monkeypatch.delenv(name)
    assert "NIM_TLS_CERT_PATH" in str(deployments.changed())
    with pytest.raises(DeployError, match="speaks TLS, and NIM_TLS_CERT_PATH is not set"):
        deployments.deploy(models[0])
    assert secure.alive()
