"""Deployment of the embedding server by any backend, and the server that the last one left running."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.docker import (
    ContainerState,
    container_configuration,
    container_spec,
    deploy_container,
    recover,
)
from assets_pkg.deploy.backends.process import (
    ServerState,
    command_line,
    deploy_process,
    environment,
    stop_unrecorded,
)
from assets_pkg.deploy.backends.vllm import KEY_VARIABLE as VLLM_KEY
from assets_pkg.deploy.backends.vllm import VllmState, deploy_vllm, vllm_command
from assets_pkg.deploy.configuration import configuration, differences, with_model
from assets_pkg.deploy.interface import interface_of
from assets_pkg.deploy.server_client import CERTIFICATE_VARIABLE, KEY_VARIABLE, guard_of, server_key
from assets_pkg.deploy.server_state import (
    STATE_FILE,
    DeployError,
    RunningServer,
    ServedModel,
    SmokeCheck,
    asks_for_tls,
    await_serving,
    damaged_state,
    load_state,
)
from resources.containers import ContainerEngine
from storage.progress import Note, no_note

STATES: dict[str, Callable[..., RunningServer]] = {
    "process": ServerState,
    "docker": ContainerState,
    "vllm": VllmState,
}
"""The class of the state that each ``deploy.backend`` keeps."""


def read_state(folder: Path) -> RunningServer | None:
    """The server that the last deployment left in ``folder``, whether or not it still runs.

    Raises:
        DeployError: the state file is damaged.
    """
    state: dict[str, Any] | None = load_state(folder)
    if state is None:
        return None
    try:
        return STATES[state.get("backend", "process")](**state)
    except (KeyError, TypeError) as error:
        raise damaged_state(folder / STATE_FILE) from error


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
    anew: bool = False,
    note: Note = no_note,
) -> RunningServer:
    """Serve the model with the profile's settings and the key of the environment; a server that already does so is
    kept.

    Args:
        folder: the folder of state and logs.
        engine: connects to the Docker engine; called only where a container is wanted.
        anew: replace the server even if it already does so.
        note: hears of the requests that the previous server still answers.

    Raises:
        DeployError, ContainerError: the deployment failed; the previous server still serves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".deploying.lock"):
        return _deploy(served, settings, folder, smoke_check, engine, anew, note)


def _deploy(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    engine: Callable[[], ContainerEngine],
    anew: bool,
    note: Note,
) -> RunningServer:
    old = _running(folder)
    stop_unrecorded(folder, old, note)
    if old is not None:
        if not anew and _is_current(old, served, settings):
            await_serving(old, settings.startup_timeout_s)
            if key_problem(old) is None:
                return old
        _require_replaceable(old, settings)
    if settings.backend == "process":
        return deploy_process(served, settings, folder, smoke_check, old, note)
    if settings.backend == "vllm":
        return deploy_vllm(served, settings, folder, smoke_check, old, note)
    return deploy_container(served, settings, folder, smoke_check, old, engine(), note)


def stop_deployed(folder: Path, note: Note = no_note, interrupts: int = 1) -> RunningServer | None:
    """Stop the deployed server, and those that killed deployments left; returns the deployed one if it ran.

    They answer the requests that they have accepted first. An interrupt (Ctrl-C) after ``interrupts`` others ends the
    deployed server at once.

    Raises:
        DeployError: the state file is damaged.
    """
    if not folder.exists():
        return None
    with FileLock(folder / ".deploying.lock"):
        server = read_state(folder)
        stopped = server is not None and _stop(server, note, interrupts)
        stop_unrecorded(folder, None, note)
    return server if stopped else None


def _stop(server: RunningServer, note: Note, interrupts: int) -> bool:
    for left in range(interrupts, -1, -1):
        try:
            return server.stop(note)
        except KeyboardInterrupt:
            if left:
                note(
                    f"{server.handle} still answers requests that it has accepted: Ctrl-C again ends it at once"
                )
    server.kill()
    return True


def key_problem(server: RunningServer) -> str | None:
    """How the key that a ready server demands differs from the environment's; None if it does not, or if the
    environment has none."""
    if server_key() is None:
        return None
    demanded = guard_of(server.url, interface_of(server.backend).path)
    if demanded == "open":
        return f"it answers without a key, and {KEY_VARIABLE} is set"
    return f"it demands another key than {KEY_VARIABLE}" if demanded == "another key" else None


def _running(folder: Path) -> RunningServer | None:
    """The server of the last deployment, if it runs."""
    old = read_state(folder)
    if isinstance(old, ContainerState):
        recover(old)
    return old if old is not None and old.alive() else None


def _require_replaceable(old: RunningServer, settings: DeploySettings) -> None:
    """Raises `DeployError` where the new server cannot take over from this one, or would demand no key when this one
    does."""
    if old.backend != settings.backend:
        raise DeployError(
            f"{old.handle} serves at {old.url}, and a {settings.backend} server cannot take over from it: stop it "
            "first (retune deploy --stop)"
        )
    if old.url.startswith("https:") and not asks_for_tls():
        raise DeployError(
            f"the server at {old.url} speaks TLS, and {CERTIFICATE_VARIABLE} is not set, so that the new one would "
            "speak plain HTTP: set it, or stop the server first if that is meant (retune deploy --stop)"
        )
    path = interface_of(old.backend).path
    if server_key() is None and guard_of(old.url, path) == "another key":
        raise DeployError(
            f"the server at {old.url} demands a key, and {KEY_VARIABLE} is not set, so that the new one would demand "
            f"none: set {KEY_VARIABLE}, or stop the server first if that is meant (retune deploy --stop)"
        )


def shown_command(served: ServedModel, settings: DeploySettings, folder: Path) -> str:
    """The command by which `deploy` starts the server, for a shell; it contains no secret."""
    if settings.backend == "docker":
        return container_spec(served, settings, folder).shell()
    if settings.backend == "vllm":
        endpoint = settings.served_model_name, settings.host, settings.host_port
        command = shlex.join(vllm_command(served.checkpoint.resolve(), *endpoint))
        return f'{VLLM_KEY}="${KEY_VARIABLE}" {command}' if server_key() else command
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment(settings).items()]
    return " ".join([*variables, shlex.join(command_line(served, settings, settings.host_port))])


def settings_problem(server: RunningServer, settings: DeploySettings) -> str | None:
    """Which settings and variables the running server was not started with; None where there are none, or where an
    earlier version of Retune started it and did not keep them."""
    changed = differences(server.configuration, configuration(settings)) if server.configuration else []
    return f"it was started with other values of {', '.join(changed)}" if changed else None


def _is_current(old: RunningServer, served: ServedModel, settings: DeploySettings) -> bool:
    """Whether the running server is the one that a new deployment would start."""
    if settings.backend == "docker":
        wanted = container_configuration(served, settings)
    else:
        wanted = with_model(
            settings, served.checkpoint if settings.backend == "vllm" else served.onnx, served.digest
        )
    return not differences(old.configuration, wanted)
