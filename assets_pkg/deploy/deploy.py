"""The deployed server, whatever runs it: deploy, look, stop."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.docker import ContainerState, container_spec, deploy_container, resume
from assets_pkg.deploy.backends.process import ServerState, command_line, deploy_process, environment
from assets_pkg.deploy.backends.vllm import VllmState, deploy_vllm, vllm_command
from assets_pkg.deploy.server_state import (
    STATE_FILE,
    DeployError,
    RunningServer,
    ServedModel,
    SmokeCheck,
    await_serving,
    damaged,
    load_state,
)
from resources.containers import ContainerEngine

KINDS: dict[str, Callable[..., RunningServer]] = {
    "process": ServerState,
    "docker": ContainerState,
    "vllm": VllmState,
}


def read_state(folder: Path) -> RunningServer | None:
    """The server that the last deployment left in ``folder``, whether or not it still runs.

    Raises:
        DeployError: the state file is damaged.
    """
    state: dict[str, Any] | None = load_state(folder)
    if state is None:
        return None
    try:
        return KINDS[state.get("backend", "process")](**state)
    except (KeyError, TypeError) as error:
        raise damaged(folder / STATE_FILE) from error


def server_of(folder: Path, digest: str) -> RunningServer:
    """The deployed server, ready and serving the model with this digest.

    Raises:
        DeployError: there is none, or it serves another model.
    """
    server = read_state(folder)
    if server is None or not server.serves_its_model() or server.model_digest != digest:
        raise DeployError("no server serves the promoted model: run `retune deploy` first")
    return server


def deploy(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    engine: Callable[[], ContainerEngine],
) -> RunningServer:
    """Serve the model as the profile says. A server that already serves it there is left alone.

    Args:
        folder: where state and logs are kept.
        engine: gives the Docker engine, asked for only where it is needed.

    Raises:
        DeployError, ContainerError: it could not be done; the server before it still serves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = read_state(folder)
    if isinstance(old, ContainerState):
        resume(old)
    if old is not None and not old.alive():
        old = None
    if old is not None and _as_wanted(old, served, settings, folder):
        await_serving(old, settings.startup_timeout_s)
        return old
    if old is not None and old.backend != settings.backend:
        raise DeployError(
            f"{old.handle} serves at {old.url}, and a {settings.backend} server cannot take over from it: stop it "
            "first (retune deploy --stop)"
        )
    if settings.backend == "process":
        return deploy_process(served, settings, folder, smoke_check, old)
    if settings.backend == "vllm":
        return deploy_vllm(served, settings, folder, smoke_check, old)
    return deploy_container(served, settings, folder, smoke_check, old, engine())


def shown_command(served: ServedModel, settings: DeploySettings, folder: Path) -> str:
    """The command that `deploy` amounts to, for a shell; no secret is in it."""
    if settings.backend == "docker":
        return container_spec(served, settings, folder).shell()
    if settings.backend == "vllm":
        place = settings.served_model_name, settings.host, settings.host_port
        return shlex.join(vllm_command(served.checkpoint.resolve(), *place))
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment(settings).items()]
    return " ".join([*variables, shlex.join(command_line(served, settings, settings.host_port))])


def _as_wanted(old: RunningServer, served: ServedModel, settings: DeploySettings, folder: Path) -> bool:
    if old.model_digest != served.digest or old.port != settings.host_port:
        return False
    if isinstance(old, ContainerState):
        wanted = container_spec(served, settings, folder)
        return settings.backend == old.backend and (old.name, old.image) == (wanted.name, wanted.image)
    return settings.backend == old.backend
