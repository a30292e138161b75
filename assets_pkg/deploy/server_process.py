"""The embedding server as a local process that outlives the run which started it.

A new server is proven on a private port first (ready, right model digest, embeddings equal to the
checkpoint's own). Only then does it join the old one on the public port (SO_REUSEPORT), and the old one is
asked to finish its requests and leave. If any of this fails, the old server goes on serving.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from assets_pkg.profile import DeploySettings
from storage.artifact_store import write_atomic

POLL_SECONDS = 0.1
STOP_SECONDS = 20.0
LOG_LINES_SHOWN = 15


class DeployError(Exception):
    """The server could not be started, proven or stopped; the one before it still serves."""


@dataclass(frozen=True)
class ServerState:
    """What is remembered of a running server (``server.json``)."""

    pid: int
    started: float
    host: str
    port: int
    model_digest: str
    model_folder: str
    log: str

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def alive(self) -> bool:
        """Whether that very process still runs (a reused pid does not count)."""
        process = self._process()
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.started) < 1 else None
        except psutil.NoSuchProcess:
            return None


def read_state(folder: Path) -> ServerState | None:
    """The state that the last deployment left in ``folder``, whether or not the server still runs."""
    try:
        return ServerState(**json.loads((folder / "server.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DeployError(
            f"{folder / 'server.json'} is damaged: stop the server by hand and delete it"
        ) from error


def deploy_process(
    model_folder: Path,
    model_digest: str,
    settings: DeploySettings,
    folder: Path,
    smoke_check: Callable[[str], None],
) -> ServerState:
    """Serve ``model_folder`` on the profile's port, replacing an older server without refusing a request.

    Args:
        smoke_check: called with the base URL of the proven server; raises if its embeddings are wrong.
        folder: where state and logs are kept.

    Raises:
        DeployError: the port belongs to someone else, or the new server did not prove itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = read_state(folder)
    if old is not None and not old.alive():
        old = None
    if old is not None and old.model_digest == model_digest and old.port == settings.host_port:
        _await(old, model_digest, settings.startup_timeout_s)
        return old
    _require_port(settings, ours=old)
    _prove(model_folder, model_digest, settings, folder, smoke_check)
    new = _start(model_folder, model_digest, settings, settings.host_port, folder / "server.log")
    try:
        _await(new, model_digest, settings.startup_timeout_s)
        write_atomic(folder / "server.json", json.dumps(asdict(new), indent=1))
    except BaseException:
        stop(new)
        raise
    if old is not None:
        stop(old)
    return new


def stop(state: ServerState) -> bool:
    """Ask the server to finish and leave, then insist. Returns whether there was one to stop."""
    process = state._process()
    if process is None:
        return False
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
    return True


def served_digest(url: str) -> str | None:
    """The digest of the model that answers at ``url``; None if nobody does or it is not ready."""
    try:
        if httpx.get(f"{url}/v1/health/ready", timeout=5).status_code != 200:
            return None
        metadata: dict[str, Any] = httpx.get(f"{url}/v1/metadata", timeout=5).json()
        return metadata.get("modelDigest")
    except (httpx.HTTPError, ValueError):
        return None


def _prove(
    model_folder: Path,
    model_digest: str,
    settings: DeploySettings,
    folder: Path,
    smoke_check: Callable[[str], None],
) -> None:
    trial = _start(model_folder, model_digest, settings, _free_port(settings.host), folder / "trial.log")
    try:
        _await(trial, model_digest, settings.startup_timeout_s)
        smoke_check(trial.url)
    finally:
        stop(trial)


def _start(
    model_folder: Path, model_digest: str, settings: DeploySettings, port: int, log: Path
) -> ServerState:
    command = [sys.executable, "-m", "assets_pkg.nim", "--model-dir", str(model_folder)]
    command += ["--host", settings.host, "--port", str(port), "--reuse-port"]
    environment = {**os.environ, "NIM_MAX_CLIENT_BATCH_SIZE": str(settings.max_client_batch_size)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    started = psutil.Process(process.pid).create_time()
    return ServerState(
        process.pid, started, settings.host, port, model_digest, str(model_folder), str(log.absolute())
    )


def _await(server: ServerState, model_digest: str, timeout: float) -> None:
    """Wait until the server itself says that it serves the wanted model."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not server.alive():
            raise DeployError(f"the embedding server ended while starting; its log says:\n{_tail(server)}")
        if served_digest(server.url) == model_digest:
            return
        time.sleep(POLL_SECONDS)
    raise DeployError(
        f"the embedding server at {server.url} did not serve model {model_digest} within {timeout:g} s; "
        f"its log says:\n{_tail(server)}"
    )


def _require_port(settings: DeploySettings, ours: ServerState | None) -> None:
    if ours is not None and ours.port == settings.host_port:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.host_port))
        except OSError as error:
            raise DeployError(
                f"port {settings.host_port} on {settings.host} is in use{_holder(settings.host_port)}: stop "
                "that program, or choose another with deploy.host_port=PORT"
            ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f" by process {connection.pid}" if connection.pid else ""
    except psutil.AccessDenied:
        return ""
    return ""


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _tail(server: ServerState) -> str:
    try:
        lines = Path(server.log).read_text("utf-8", "replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(empty)"
