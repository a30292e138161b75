"""The container backend on a real engine: deployed, replaced under load, rolled back, restored after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import docker
import httpx2
import pytest

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends import own_image
from assets_pkg.deploy.backends.docker import PREVIOUS, ContainerState, container_spec
from assets_pkg.deploy.deploy import deploy, read_state, shown_command
from assets_pkg.deploy.server_state import DeployError, ServedModel, SmokeCheck, served_digest
from resources.containers import ContainerEngine, ContainerError, ContainerSpec, ContainerStatus
from tests.deploy.conftest import NAME
from tests.deploy.load import LONG, LongRequest, SteadyLoad
from tests.nim.certificates import make_certificate

MEGABYTE = 2**20
Settings = Callable[..., DeploySettings]


class Deployment:
    """One project's deployments, in one folder."""

    def __init__(self, folder: Path, settings: DeploySettings, smoke: SmokeCheck, engine: ContainerEngine):
        self.folder, self.settings, self.smoke, self.engine = folder, settings, smoke, engine

    def deploy(self, served: ServedModel, engine: ContainerEngine | None = None) -> ContainerState:
        state = deploy(served, self.settings, self.folder, self.smoke, lambda: engine or self.engine)
        assert isinstance(state, ContainerState)
        return state

    def containers(self) -> list[str]:
        return sorted(each.name for each in self.engine.labelled("retune.state", str(self.folder)))


@pytest.fixture
def deployment(
    tmp_path: Path, settings: Settings, smoke: SmokeCheck, engine: ContainerEngine
) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "stage5_deploy", settings(backend="docker"), smoke, engine)
    yield made
    for name in made.containers():
        engine.remove(name)


def test_the_image_is_small_and_runs_hardened(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    from tests.containers.engine import BASE

    beyond = deployment.engine.image_size("retune-nim:latest") - deployment.engine.image_size(BASE)
    assert beyond < 400 * MEGABYTE
    state = deployment.deploy(models[0])
    container = docker.DockerClient(base_url=deployment.engine.base_url).containers.get(state.id)
    assert container.exec_run(["python", "-c", "import os; print(os.getuid())"]).output == b"10001\n"
    assert container.exec_run(["python", "-c", "open('/x', 'w')"]).exit_code == 1
    health = container.attrs["Config"]["Healthcheck"]["Test"]
    assert container.exec_run(health[1:]).exit_code == 0
    assert served_digest(state.url) == models[0].digest


def test_with_tls_the_container_speaks_nothing_else(
    deployment: Deployment,
    models: tuple[ServedModel, ServedModel],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o755)
    for name, value in make_certificate(tmp_path).items():
        Path(value).chmod(0o644)  # the user in the container reads them
        monkeypatch.setenv(name, value)
    state = deployment.deploy(models[0])  # ends with the smoke test
    assert state.url.startswith("https://")
    assert served_digest(state.url) == models[0].digest
    with pytest.raises(httpx2.TransportError):
        httpx2.get(state.url.replace("https", "http") + "/v1/health/live", timeout=10)
    container = docker.DockerClient(base_url=deployment.engine.base_url).containers.get(state.id)
    assert container.exec_run(container.attrs["Config"]["Healthcheck"]["Test"][1:]).exit_code == 0


def test_an_image_of_other_sources_is_built_anew_or_kept_where_it_cannot_be(
    deployment: Deployment, models: tuple[ServedModel, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_image, "_sources", lambda variant: "another version's")
    said: list[str] = []
    engine = deployment.engine
    monkeypatch.setattr(engine, "build", _cannot_build)
    state = deploy(
        models[0], deployment.settings, deployment.folder, deployment.smoke, lambda: engine, note=said.append
    )
    assert state.alive()
    assert "is used as it is: cannot build" in said[0]
    monkeypatch.undo()
    assert not own_image._must_be_built(engine, "retune-nim:latest", "cpu")
    assert own_image._must_be_built(engine, "retune-nim:latest", "gpu")


def _cannot_build(*_: object) -> None:
    raise ContainerError("cannot build it: no registry")


def test_deployed_once_and_remembered(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    state = deployment.deploy(models[0])
    assert deployment.containers() == [deployment.settings.container_name]
    assert read_state(deployment.folder) == state
    assert deployment.deploy(models[0]) == state
    assert "listening" in state.last_log()
    assert any("listening" in line for line in state.follow_log(100))
    assert state.stop()
    assert not state.alive()
    assert not state.stop()


def test_replaced_under_load_with_no_more_than_the_stated_gap(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    first = deployment.deploy(models[0])
    with SteadyLoad(first.url, NAME) as load:
        second = deployment.deploy(models[1])
        assert second.url == first.url
        assert served_digest(second.url) == models[1].digest
    assert set(load.statuses) == {200}
    assert deployment.containers() == [deployment.settings.container_name]
    # The load also sees the time that the old container takes to end.
    assert load.longest_gap_s < second.gap_s + 10


def test_a_long_request_survives_replace_and_stop(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    first = deployment.deploy(models[0])
    with LongRequest(first.url) as accepted:
        second = deployment.deploy(models[1])
        assert accepted.answered() == len(LONG)
    with LongRequest(second.url) as accepted:
        assert second.stop()
        assert accepted.answered() == len(LONG)


def test_a_damaged_artifact_leaves_the_old_server_alone(
    deployment: Deployment, models: tuple[ServedModel, ServedModel], tmp_path: Path
) -> None:
    old = deployment.deploy(models[0])
    shutil.copytree(models[1].onnx, tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"not a model")
    with (
        SteadyLoad(old.url, NAME) as load,
        pytest.raises(DeployError, match=r"model\.onnx is not the file that"),
    ):
        deployment.deploy(replace(models[1], onnx=tmp_path / "broken"))
    assert set(load.statuses) == {200}
    assert (load.refused, load.broken) == (0, 0)
    assert read_state(deployment.folder) == old
    assert deployment.containers() == [deployment.settings.container_name]


def test_a_server_of_another_model_is_refused(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    deployment.settings = deployment.settings.model_copy(update={"startup_timeout_s": 5})
    with pytest.raises(DeployError, match="did not serve model"):
        deployment.deploy(replace(models[0], digest="c" * 16))
    assert deployment.containers() == []


class FailsToTakeOver(ContainerEngine):
    """An engine that cannot start a container on the public port."""

    def run(self, spec: ContainerSpec) -> ContainerStatus:
        if spec.restart:
            raise ContainerError("cannot start")
        return super().run(spec)


def test_a_failed_take_over_brings_the_old_server_back(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    old = deployment.deploy(models[0])
    with pytest.raises(ContainerError, match="cannot start"):
        deployment.deploy(models[1], FailsToTakeOver(deployment.engine.base_url))
    assert served_digest(old.url) == models[0].digest
    assert deployment.containers() == [old.name]
    assert read_state(deployment.folder) == old


def test_a_deployment_killed_between_two_containers_is_restored(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    old = deployment.deploy(models[0])
    deployment.engine.stop(old.id, 10)
    deployment.engine.rename(old.id, old.name + PREVIOUS)
    assert not old.alive()
    assert deployment.deploy(models[0]) == old
    assert served_digest(old.url) == models[0].digest


def test_a_name_or_port_of_another_program_is_refused(
    deployment: Deployment,
    models: tuple[ServedModel, ServedModel],
    settings: Settings,
    smoke: SmokeCheck,
    tmp_path: Path,
) -> None:
    deployment.deploy(models[0])
    other = Deployment(tmp_path / "other", deployment.settings, smoke, deployment.engine)
    with pytest.raises(DeployError, match="that this project did not start"):
        other.deploy(models[0])
    other.settings = deployment.settings.model_copy(update={"container_name": "another"})
    with pytest.raises(DeployError, match="is in use"):
        other.deploy(models[0])


def test_a_missing_engine_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="no Docker engine answers"):
        ContainerEngine(f"unix://{tmp_path}/missing.sock")


def test_the_nim_image_gets_the_key_from_the_environment_only(
    models: tuple[ServedModel, ServedModel],
    settings: Settings,
    smoke: SmokeCheck,
    engine: ContainerEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in NIM: Retune's image under another name, with the closed NIM's mounts and variables."""
    client = docker.DockerClient(base_url=engine.base_url)
    client.images.get("retune-nim:latest").tag("local/nim", "1")
    nim = settings(backend="docker", server="nim", nim_image="local/nim:1", shm_size="64m")
    monkeypatch.delenv("NGC_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DeployError, match="NGC_API_KEY is not set"):
        deploy(models[0], nim, tmp_path / "nim", smoke, lambda: engine)
    monkeypatch.setenv("NGC_API_KEY", "very-secret")
    state = deploy(models[0], nim, tmp_path / "nim", smoke, lambda: engine)
    try:
        attrs = client.containers.get(state.handle.split()[1]).attrs
        assert "NGC_API_KEY=very-secret" in attrs["Config"]["Env"]
        assert "NIM_CUSTOM_MODEL=/opt/nim/custom_model" in attrs["Config"]["Env"]
        assert attrs["Config"]["User"] == "root"
        assert f"{tmp_path}/cache/nim:/opt/nim/.cache" in attrs["HostConfig"]["Binds"]
        assert attrs["HostConfig"]["ShmSize"] == 64 * MEGABYTE
        written = (tmp_path / "nim" / "server.json").read_text() + state.last_log(1000)
        assert "very-secret" not in written + shown_command(models[0], nim, tmp_path / "nim")
    finally:
        state.stop()
    spec = container_spec(
        models[0], nim.model_copy(update={"nim_image": "x/nim:2.2.0", "gpus": "all"}), tmp_path
    )
    assert f"{models[0].checkpoint}:/model:ro" in spec.argv()
    assert spec.argv()[spec.argv().index("--gpus") :][:2] == ["--gpus", "all"]


def test_gpus_that_the_engine_does_not_have_are_refused_first(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    deployment.settings = deployment.settings.model_copy(update={"gpus": "all"})
    with pytest.raises(DeployError, match="cannot hand out GPUs"):
        deployment.deploy(models[0])


def test_the_printed_command_starts_the_same_server(
    deployment: Deployment, models: tuple[ServedModel, ServedModel]
) -> None:
    """What `retune deploy -d` prints, run by a shell where the docker program exists; here through its parts."""
    command = container_spec(models[0], deployment.settings, deployment.folder).argv()
    assert command[:3] == ["docker", "run", "--detach"]
    assert command[-1] == "retune-nim:latest"
    assert f"127.0.0.1:{deployment.settings.host_port}:8000" in command
    assert "--read-only" in command


def test_state_of_a_stopped_engine_reads_as_not_alive(tmp_path: Path) -> None:
    state = ContainerState("ab", "n", "i", "127.0.0.1", 1, "aa", True, f"unix://{tmp_path}/gone.sock")
    assert not state.alive()
    (tmp_path / "server.json").write_text(json.dumps({"backend": "docker"}))
    with pytest.raises(DeployError, match="is damaged"):
        read_state(tmp_path)


def test_served_vectors_equal_the_checkpoints(
    deployment: Deployment, models: tuple[ServedModel, ServedModel], smoke: SmokeCheck
) -> None:
    state = deployment.deploy(models[0])
    smoke(state.url)
    assert httpx2.get(f"{state.url}/v1/health/ready").status_code == 200
