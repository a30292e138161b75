"""The embedding server as a local process that outlives the run which started it.

A new server is tested on a private port first: ready, right model digest, embeddings equal to the checkpoint's. Only
then is it started on the public port beside the old one (SO_REUSEPORT), which then finishes its requests and ends.
If any of this fails, the old server goes on serving.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.configuration import (
    LIMIT_VARIABLE,
    LOG_VARIABLE,
    NAMES_VARIABLE,
    drain_seconds,
    served_names,
    with_model,
)
from assets_pkg.deploy.log_files import begin, follow, last_lines
from assets_pkg.deploy.server_state import (
    DEFAULT_DRAIN_SECONDS,
    DRAIN_MARGIN_SECONDS,
    LOG_LINES_SHOWN,
    NOTE_SECONDS,
    POLL_SECONDS,
    SERVER_MODULE,
    STOP_SECONDS,
    AtAddress,
    DeployError,
    RunningServer,
    ServedModel,
    SmokeCheck,
    asks_for_tls,
    await_serving,
    drain_note,
    require_memory,
    require_port,
    served_digest,
    write_state,
)
from storage.progress import Note, no_note

DEPLOYED_FROM = "RETUNE_DEPLOYED_FROM"
"""The variable by which a server process is known as one that a deployment started: the folder of state and logs."""

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ServerState(AtAddress):
    """The stored state of a server process.

    ``started``: when it started, seconds since the epoch; ``drain_s``: how many it may take to end.
    """

    pid: int
    started: float
    host: str
    port: int
    model_digest: str
    model_folder: str
    log: str
    backend: str = "process"
    configuration: Mapping[str, str] = field(default_factory=dict[str, str])
    drain_s: float = DEFAULT_DRAIN_SECONDS
    tls: bool = False

    @property
    def handle(self) -> str:
        return f"process {self.pid}"

    def alive(self) -> bool:
        """Whether this process still runs (a reused pid does not count)."""
        process = self._process()
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def serves_its_model(self) -> bool:
        return served_digest(self.url) == self.model_digest

    def listens(self) -> bool:
        """Whether this process accepts connections on its port; True where the system does not tell."""
        process = self._process()
        try:
            sockets = [] if process is None else process.net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True
        return any(each.status == psutil.CONN_LISTEN and each.laddr[1] == self.port for each in sockets)

    def stop(self, note: Note = no_note) -> bool:
        process = self._process()
        if process is None:
            return False
        process.send_signal(signal.SIGTERM)
        if wait_for(
            [process], self.drain_s, lambda waited: note(drain_note(self.handle, waited, self.drain_s))
        ):
            self.kill()
        return True

    def kill(self) -> None:
        process = self._process()
        if process is not None:
            process.kill()
            process.wait(STOP_SECONDS)

    def last_log(self, lines: int = LOG_LINES_SHOWN) -> str:
        return "\n".join(last_lines(Path(self.log), lines)) or "(empty)"

    def follow_log(self, lines: int) -> Iterator[str]:
        return follow(Path(self.log), lines, self.alive)

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
    note: Note = no_note,
) -> ServerState:
    """Serve the exported folder on the profile's port, replacing an older server without refusing a request.

    Args:
        folder: the folder of state and logs.
        old: the server process that runs now, if one does.
        note: hears of the requests that the older server still answers.

    Raises:
        DeployError: another program holds the port, memory is short, or the new server failed its test.
    """
    require_port(settings, ours=old)
    require_memory(served)
    _test_start(served, settings, folder, smoke_check)
    new = _start(served, settings, settings.host_port, folder / "server.log")
    try:
        _await_listening(new, settings.startup_timeout_s)
        await_serving(new, settings.startup_timeout_s)
        write_state(folder, asdict(new))
    except BaseException:
        new.stop()
        raise
    if old is not None:
        old.stop(note)
    return new


def _await_listening(new: ServerState, timeout: float) -> None:
    """Wait until the process itself accepts connections: on a shared port, an older server of the same model answers
    for it.

    Raises:
        DeployError: time is up. A process that has ended is left to `await_serving`.
    """
    deadline = time.monotonic() + timeout
    while new.alive() and not new.listens():
        if time.monotonic() > deadline:
            raise DeployError(
                f"the embedding server did not listen on port {new.port} within {timeout:g} s; its log says:\n"
                f"{new.last_log()}"
            )
        time.sleep(POLL_SECONDS)


def command_line(served: ServedModel, settings: DeploySettings, port: int) -> list[str]:
    """The command that a server process is started with."""
    command = [sys.executable, "-m", SERVER_MODULE, "--model-dir", str(served.onnx)]
    return [*command, "--host", settings.host, "--port", str(port), "--reuse-port"]


def environment(settings: DeploySettings) -> dict[str, str]:
    """The variables of a server process besides those of this one."""
    return {LIMIT_VARIABLE: str(settings.max_client_batch_size), NAMES_VARIABLE: served_names(settings)}


def _test_start(served: ServedModel, settings: DeploySettings, folder: Path, smoke_check: SmokeCheck) -> None:
    """Start the server on a private port, test it there and stop it."""
    # The gRPC port that the environment may set belongs to the server in use.
    port, variables = _free_port(settings.host), {"NIM_GRPC_API_PORT": ""}
    trial = _start(served, settings, port, folder / "trial.log", variables)
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
    to_file = {LOG_VARIABLE: str(log.absolute())}
    pid, started = start_process(command, {**environment(settings), **to_file, **variables}, log)
    paths = str(served.onnx), str(log.absolute())
    return ServerState(
        pid,
        started,
        settings.host,
        port,
        served.digest,
        *paths,
        configuration=with_model(settings, served.onnx, served.digest),
        drain_s=drain_seconds() + DRAIN_MARGIN_SECONDS,
        tls=asks_for_tls(),
    )


def start_process(command: Sequence[str], variables: Mapping[str, str], log: Path) -> tuple[int, float]:
    """Start a program that outlives this one, with its output at the end of ``log``.

    Returns its pid, and when it started, seconds since the epoch.
    """
    begin(log)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **variables, DEPLOYED_FROM: str(log.parent.resolve())},
        )
    return process.pid, psutil.Process(process.pid).create_time()


def stop_unrecorded(folder: Path, recorded: RunningServer | None, note: Note = no_note) -> list[int]:
    """Stop servers that a killed deployment left: tried on a private port, or started or replaced on the public one,
    where they would go on answering beside the recorded server. They answer what they have accepted first. Returns
    their pids.

    Args:
        folder: the folder of state and logs; no other deployment may be using it.
        recorded: the server that the state names.
    """
    kept = recorded.pid if isinstance(recorded, ServerState) else None
    left = [process for process in _deployed_from(folder) if process.pid != kept]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    longest = drain_seconds() + DRAIN_MARGIN_SECONDS
    names = f"processes {', '.join(str(process.pid) for process in left)}"
    for process in wait_for(left, longest, lambda waited: note(drain_note(names, waited, longest))):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return [process.pid for process in left]


def wait_for(
    processes: Sequence[psutil.Process], seconds: float, note: Callable[[float], object]
) -> list[psutil.Process]:
    """Wait until all have ended, and say every ``NOTE_SECONDS`` how long that has taken; returns those that have not
    after ``seconds``."""
    begun, left = time.monotonic(), list(processes)
    while left and (waited := time.monotonic() - begun) < seconds:
        if waited >= NOTE_SECONDS:
            note(waited)
        left = psutil.wait_procs(left, min(NOTE_SECONDS, seconds - waited))[1]
    return left


def _deployed_from(folder: Path) -> Iterator[psutil.Process]:
    """The server processes, each the first of its session, without those that they have started themselves."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (
                process.environ().get(DEPLOYED_FROM) == str(folder.resolve())
                and os.getsid(process.pid) == process.pid
            ):
                yield process


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
