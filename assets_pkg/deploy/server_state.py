"""What the backends share: the running server's state, how to wait for it, and the checks before it takes over."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx2
import psutil

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.configuration import Configuration
from assets_pkg.deploy.interface import Interface, NimInterface
from assets_pkg.deploy.server_client import (
    CERTIFICATE_VARIABLE,
    KEY_VARIABLE,
    get,
    get_fields,
    guard_of,
    server_client,
    server_key,
)
from assets_pkg.nim.manifest import QUERY_MAP_FILE
from resources.encoders.base import Role
from resources.encoders.sentence_transformer import passage_model
from resources.encoders.service_calls import AnswerError, as_vector, json_value
from storage.disk import bytes_below
from storage.errors import RetuneError
from storage.files import write_json
from storage.progress import Note, no_note

if TYPE_CHECKING:
    import numpy as np

STATE_FILE = "server.json"
SERVER_MODULE = "assets_pkg.nim"
POLL_SECONDS = 0.1
STOP_SECONDS = 20
NOTE_SECONDS = 5.0
DRAIN_MARGIN_SECONDS = 10.0
DEFAULT_DRAIN_SECONDS = 131.0
"""How long a server that was started with the default deadline of a request may take to end."""
SMOKE_TIMEOUT_S = 60.0
LOG_LINES_SHOWN = 15

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-3, "int8_weights": 1e-2, "int8_dynamic": 1e-1}
"""The largest cosine distance to the checkpoint's vectors, by the dtype of the exported model."""

SmokeCheck = Callable[[str], None]
"""Called with the base URL of a started server; raises `DeployError` if its embeddings are wrong."""


class DeployError(RetuneError):
    """The server could not be started, tested or stopped; the previous one still serves."""


@dataclass(frozen=True)
class ServedModel:
    """The model to serve: its exported folder, the checkpoint that this was made from, its digest, and the folder of
    the TensorRT engine of the export, if there is one."""

    onnx: Path
    checkpoint: Path
    digest: str
    engine: Path | None = None

    def refuse_query_map(self, server: str) -> None:
        """Refuse a server that would answer questions with the vectors of passages.

        Raises:
            DeployError: the model embeds questions and passages in two ways.
        """
        if (self.onnx / QUERY_MAP_FILE).is_file() or passage_model(self.checkpoint) is not None:
            raise DeployError(
                "the model has a matrix on the vectors of questions alone (finetune.adapter_side=query), which "
                f"{server} does not apply: set deploy.server=retune and a backend of it, or train with "
                "finetune.adapter_side=both"
            )


class AtAddress:
    """The URL of what listens on ``host`` and ``port``, with TLS or without."""

    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


class RunningServer(Protocol):
    """A deployed server, as stored between runs."""

    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def model_digest(self) -> str: ...
    @property
    def backend(self) -> str:
        """The ``deploy.backend`` that started it."""
        ...

    @property
    def configuration(self) -> Configuration:
        """What it was started with; empty where an earlier version of Retune started it."""
        ...

    @property
    def handle(self) -> str:
        """The name that the system knows it by: ``process 123``, ``container name``."""
        ...

    @property
    def log(self) -> str:
        """Its log: a file, or the command that prints it."""
        ...

    def alive(self) -> bool:
        """Whether this server, and not another under its id, still runs."""
        ...

    def serves_its_model(self) -> bool:
        """Whether it is ready and, where it reports the digest of its model, serves ``model_digest``."""
        ...

    def stop(self, note: Note = no_note) -> bool:
        """Let it finish its requests and end; kill it where it takes longer than its own deadline of requests.

        ``note`` hears every ``NOTE_SECONDS`` how long that has taken. Returns whether it still existed.
        """
        ...

    def kill(self) -> None:
        """End it at once, with its requests."""
        ...

    def follow_log(self, lines: int) -> Iterator[str]:
        """The last lines of its log, and those that it writes until it ends."""
        ...

    def last_log(self, lines: int = LOG_LINES_SHOWN) -> str:
        """The end of its log."""
        ...


def drain_note(handle: str, waited: float, longest: float) -> str:
    """What is said while a server that is to end answers the requests that it has accepted."""
    return f"{handle} still answers requests that it has accepted: {waited:.0f} s, at most {longest:.0f} s"


def asks_for_tls() -> bool:
    """Whether a server that is deployed with this environment is to speak HTTPS."""
    return bool(os.environ.get(CERTIFICATE_VARIABLE))


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Store the running server's state in ``folder``."""
    write_json(folder / STATE_FILE, state, ensure_ascii=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, or None.

    Raises:
        DeployError: the file is damaged.
    """
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged_state(path) from error
    if not isinstance(state, dict):
        raise damaged_state(path)
    return state


def damaged_state(path: Path) -> DeployError:
    return DeployError(f"{path} is damaged: stop the server by hand and delete it")


def is_ready(url: str) -> bool:
    """Whether the server at ``url`` reports that it is ready."""
    return get(url, "/v1/health/ready") is not None


def served_digest(url: str) -> str | None:
    """The digest of the model that answers at ``url``; None if no server does or it is not ready."""
    digest = get_fields(url, "/v1/metadata").get("modelDigest") if is_ready(url) else None
    return digest if isinstance(digest, str) else None


def await_serving(server: RunningServer, timeout: float) -> None:
    """Wait until the server is ready and serves its model, for at most ``timeout`` seconds.

    Raises:
        DeployError: it ended, or time is up; with the last lines of its log.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not server.alive():
            raise DeployError(
                f"the embedding server ended while starting; its log says:\n{server.last_log()}"
            )
        if server.serves_its_model():
            return
        time.sleep(POLL_SECONDS)
    raise DeployError(
        f"the embedding server at {server.url} did not serve model {server.model_digest} within {timeout:g} s; "
        f"its log says:\n{server.last_log()}"
    )


def require_port(settings: DeploySettings, ours: RunningServer | None) -> None:
    """Raises `DeployError` when a program other than our running server holds the profile's port."""
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


def require_memory(served: ServedModel) -> None:
    """Raises `DeployError` when a second server beside the running one would not fit into memory."""
    size = bytes_below(served.onnx)
    free = psutil.virtual_memory().available
    if free < size:
        raise DeployError(
            f"{free / 1e9:.1f} GB of memory are free, and the model alone is {size / 1e9:.1f} GB: end other "
            "programs, or stop the running server first (retune deploy --stop)"
        )


def _holder(port: int) -> str:
    """The process that listens on the port, as part of a sentence; empty where that cannot be found out. Of its
    arguments only our own server's model folder is shown: those of other programs may hold keys."""
    try:
        holders = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pid = next((each.pid for each in holders if each.laddr and each.laddr.port == port), None)
        command = psutil.Process(pid).cmdline() if pid else []
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
    if SERVER_MODULE in command and "--model-dir" in command:
        folder = command[command.index("--model-dir") + 1]
        return f" by the embedding server of another project (process {pid}, model {folder})"
    return f" by process {pid}" if pid else ""


def smoke_check(
    model_name: str,
    texts: Sequence[str],
    role: Role,
    expected: np.ndarray,
    dtype: str = "fp32",
    interface: Interface | None = None,
) -> Callable[[str], None]:
    """A check that the server at a URL embeds ``texts`` as ``expected`` (float32 [n, d], unit length).

    The returned function raises DeployError when a vector is missing, not finite, or further from the expected
    one than ``TOLERANCES[dtype]``. ``interface``: the server's, by default NIM's.
    """
    api = interface or NimInterface()

    def check(url: str) -> None:
        import numpy as np

        _require_guard(url, api.path)
        try:
            with server_client(url, SMOKE_TIMEOUT_S) as client:
                answer = client.post(api.path, json=api.body(model_name, texts, role))
        except httpx2.HTTPError as error:
            raise DeployError(f"smoke test: {url} does not answer: {error!r}") from error
        if answer.status_code != 200:
            raise DeployError(f"smoke test: {url} answered {answer.status_code}: {answer.text[:300]}")
        try:
            rows = api.vectors(json_value(answer), model_name, len(texts))
        except AnswerError as error:
            raise DeployError(f"smoke test: {url} {error}") from error
        vectors = [as_vector(row, expected.shape[1]) for row in rows]
        valid = [vector for vector in vectors if vector is not None]
        if len(valid) < len(expected):
            wanted = f"{len(expected)} finite vectors of {expected.shape[1]} numbers"
            raise DeployError(f"smoke test: expected {wanted}, got {len(valid)}")
        served = np.stack(valid)
        # The cosine distance where both have length 1, and large where the served one has another length.
        distance = float((np.square(served - expected).sum(axis=1) / 2).max())
        if distance > TOLERANCES[dtype]:
            raise DeployError(f"smoke test: served vectors are {distance:.2g} away from the checkpoint's")

    return check


def _require_guard(url: str, path: str) -> None:
    """Raises `DeployError` when a key is set and the server answers without it."""
    if server_key() and guard_of(url, path) == "open":
        raise DeployError(
            f"smoke test: {KEY_VARIABLE} is set, and the server answers requests to {path} without a key. It cannot "
            f"be served with one: unset {KEY_VARIABLE}, or choose another deploy.backend or deploy.server"
        )
