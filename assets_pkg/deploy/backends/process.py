"""The embedding server as a local process that outlives the run which started it.

A new server is proven on a private port first (ready, right model digest, embeddings equal to the
checkpoint's own). Only then does it join the old one on the public port (SO_REUSEPORT), and the old one is
asked to finish its requests and leave. If any of this fails, the old server goes on serving.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.server_state import (
    LOG_LINES_SHOWN,
    STOP_SECONDS,
    RunningServer,
    ServedModel,
    SmokeCheck,
    await_serving,
    require_memory,
    require_port,
    served_digest,
    write_state,
)

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ServerState:
    """What is remembered of a server process; ``started`` is its start, seconds since the epoch."""

    pid: int
    started: float
    host: str
    port: int
    model_digest: str
    model_folder: str
    log: str
    backend: str = "process"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def handle(self) -> str:
        return f"process {self.pid}"

    def alive(self) -> bool:
        """Whether that very process still runs (a reused pid does not count)."""
        process = self._process()
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def serves_its_model(self) -> bool:
        return served_digest(self.url) == self.model_digest

    def stop(self) -> bool:
        process = self._process()
        if process is None:
            return False
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        return True

    def last_log(self, lines: int = LOG_LINES_SHOWN) -> str:
        try:
            said = Path(self.log).read_text("utf-8", "replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(said[-lines:]) or "(empty)"

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.started) < 1 else None
        except psutil.NoSuchProcess:
            return None


def deploy_process(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    old: RunningServer | None,
) -> ServerState:
    """Serve the exported folder on the profile's port, replacing an older server without refusing a request.

    Args:
        folder: where state and logs are kept.
        old: the server process that runs now, if one does.

    Raises:
        DeployError: the port belongs to someone else, or the new server did not prove itself.
    """
    require_port(settings, ours=old)
    require_memory(served)
    _prove(served, settings, folder, smoke_check)
    new = _start(served, settings, settings.host_port, folder / "server.log")
    try:
        await_serving(new, settings.startup_timeout_s)
        write_state(folder, asdict(new))
    except BaseException:
        new.stop()
        raise
    if old is not None:
        old.stop()
    return new


def command_line(served: ServedModel, settings: DeploySettings, port: int) -> list[str]:
    """The command that a server process is started with."""
    command = [sys.executable, "-m", "assets_pkg.nim", "--model-dir", str(served.onnx)]
    return [*command, "--host", settings.host, "--port", str(port), "--reuse-port"]


def environment(settings: DeploySettings) -> dict[str, str]:
    """The variables that it gets besides this process's own."""
    return {"NIM_MAX_CLIENT_BATCH_SIZE": str(settings.max_client_batch_size)}


def _prove(served: ServedModel, settings: DeploySettings, folder: Path, smoke_check: SmokeCheck) -> None:
    # A port that the environment names for gRPC is for the server that serves.
    port, alone = _free_port(settings.host), {"NIM_GRPC_API_PORT": ""}
    trial = _start(served, settings, port, folder / "trial.log", alone)
    try:
        await_serving(trial, settings.startup_timeout_s)
        smoke_check(trial.url)
    finally:
        trial.stop()


def _start(
    served: ServedModel,
    settings: DeploySettings,
    port: int,
    log: Path,
    variables: Mapping[str, str] = NO_VARIABLES,
) -> ServerState:
    command = command_line(served, settings, port)
    pid, started = start_process(command, {**environment(settings), **variables}, log)
    place = str(served.onnx), str(log.absolute())
    return ServerState(pid, started, settings.host, port, served.digest, *place)


def start_process(command: Sequence[str], variables: Mapping[str, str], log: Path) -> tuple[int, float]:
    """Start a program that outlives this one, its output in ``log``: its pid and start, seconds since the epoch."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **variables},
        )
    return process.pid, psutil.Process(process.pid).create_time()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
