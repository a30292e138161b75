"""The Docker engine: the description of a container, and the operations on it.

Errors of the engine are raised as `ContainerError`; see https://docker-py.readthedocs.io for the library.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from storage.errors import RetuneError, TransientError

TIMEOUT_SECONDS = 60


class ContainerError(RetuneError):
    """The engine does not answer or refused; the message says what to do where that is known."""


class EngineUnreachable(ContainerError, TransientError):
    """No container engine answers."""


@dataclass(frozen=True)
class ContainerSpec:
    """A container, described once: `argv` shows the command that `ContainerEngine.run` amounts to.

    ``secrets`` names variables of this process's environment that are handed on; their values are in neither the
    command nor the spec. ``mounts`` are read-only: folder here to folder inside; ``volumes`` are Docker's own
    ``source:target[:ro]``; ``binds`` are folders of any name, under the same path inside. ``publish`` maps ports
    inside to (address, port) here, port 0 for a free one. ``gpus`` is ``all``, a count, or device ids separated by
    commas after ``device=``.
    """

    image: str
    name: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: tuple[str, ...] = ()
    mounts: Mapping[Path, str] = field(default_factory=dict[Path, str])
    publish: Mapping[int, tuple[str, int]] = field(default_factory=dict[int, tuple[str, int]])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    gpus: str | None = None
    shm_size: str | None = None
    read_only: bool = False
    restart: bool = False
    volumes: tuple[str, ...] = ()
    binds: tuple[Path, ...] = ()
    command: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None
    runtime: str | None = None
    ipc_mode: str | None = None

    def argv(self) -> list[str]:
        """The ``docker run`` command."""
        command = ["docker", "run", "--detach", "--name", self.name]
        if self.restart:
            command += ["--restart", "unless-stopped"]
        if self.read_only:
            command += ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
            command += ["--security-opt", "no-new-privileges"]
        repeated = {
            "--publish": [f"{at}:{port or ''}:{inside}" for inside, (at, port) in self.publish.items()],
            "--volume": [f"{here}:{inside}:ro" for here, inside in self.mounts.items()] + list(self.volumes),
            "--mount": [_bind_option(path) for path in self.binds],
            "--env": [*(f"{name}={value}" for name, value in self.environment.items()), *self.secrets],
            "--label": [f"{name}={value}" for name, value in self.labels.items()],
        }
        command += [part for name, values in repeated.items() for value in values for part in (name, value)]
        options = {
            "--gpus": self.gpus,
            "--shm-size": self.shm_size,
            "--user": self.user,
            "--workdir": self.working_dir,
            "--runtime": self.runtime,
            "--ipc": self.ipc_mode,
        }
        command += [part for name, value in options.items() if value for part in (name, value)]
        return [*command, self.image, *self.command]

    def shell(self) -> str:
        """`argv` as a line for a shell."""
        return shlex.join(self.argv())

    def creation(self) -> dict[str, Any]:
        """The same for docker-py; raises `ContainerError` when a secret is not set."""
        missing = [name for name in self.secrets if not os.environ.get(name)]
        if missing:
            raise ContainerError(f"{', '.join(missing)} is not set: put it in the environment")
        hardened: dict[str, Any] = {
            "read_only": True,
            "tmpfs": {"/tmp": ""},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        }
        return {
            "image": self.image,
            "name": self.name,
            "environment": {**self.environment, **{name: os.environ[name] for name in self.secrets}},
            "volumes": [*(f"{here}:{inside}:ro" for here, inside in self.mounts.items()), *self.volumes],
            "mounts": _bind_mounts(self.binds),
            "command": list(self.command) or None,
            "user": self.user,
            "working_dir": self.working_dir,
            "runtime": self.runtime,
            "ipc_mode": self.ipc_mode,
            "ports": {
                f"{inside}/tcp": (address, port or None) for inside, (address, port) in self.publish.items()
            },
            "labels": dict(self.labels),
            "device_requests": _device_requests(self.gpus),
            "shm_size": self.shm_size,
            "restart_policy": {"Name": "unless-stopped"} if self.restart else None,
            **(hardened if self.read_only else {}),
        }


def _bind_option(path: Path) -> str:
    """The value of ``docker run --mount``, which is a line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={path}", f"target={path}"])
    return line.getvalue()


def _bind_mounts(paths: tuple[Path, ...]) -> list[Any] | None:
    from docker.types import Mount

    return [Mount(str(path), str(path), type="bind") for path in paths] or None


def engine_is_here() -> bool:
    """Whether the engine of ``DOCKER_HOST`` is this machine's own, by its address; no request is sent."""
    address = os.environ.get("DOCKER_HOST", "")
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    names = {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}
    return parts.scheme in ("unix", "npipe") or parts.hostname in names


@dataclass(frozen=True)
class ContainerStatus:
    """The state of a container: ``ports`` maps published ports, inside to here."""

    id: str
    name: str
    running: bool
    exit_code: int
    labels: Mapping[str, str]
    ports: Mapping[int, int]


class ContainerEngine:
    """One Docker engine.

    Raises (every method):
        ContainerError: no engine answers, or it refused.
    """

    def __init__(self, base_url: str | None = None):
        import docker

        self.base_url = base_url or os.environ.get("DOCKER_HOST")
        with _readable_errors("reach the Docker engine"):
            self._client: Any = (
                docker.DockerClient(base_url=self.base_url, timeout=TIMEOUT_SECONDS)
                if self.base_url
                else docker.from_env(timeout=TIMEOUT_SECONDS)
            )
            self._client.ping()

    def close(self) -> None:
        self._client.close()

    def has_image(self, image: str) -> bool:
        from docker.errors import ImageNotFound

        with _readable_errors(f"look for image {image}"):
            try:
                self._client.images.get(image)
            except ImageNotFound:
                return False
            return True

    def has_gpus(self) -> bool:
        """Whether the engine can hand GPUs to containers (NVIDIA's container toolkit)."""
        with _readable_errors("ask the engine about GPUs"):
            return "nvidia" in self._client.info().get("Runtimes", {})

    def pull(self, image: str, user: str | None = None, secret: str | None = None) -> None:
        """Fetch ``image``; ``secret`` names the variable of the environment with the registry's password."""
        auth = {"username": user, "password": os.environ.get(secret, "")} if user and secret else None
        with _readable_errors(f"pull {image}"):
            self._client.images.pull(image, auth_config=auth)

    def build(
        self, folder: Path, tag: str, arguments: Mapping[str, str], labels: Mapping[str, str] | None = None
    ) -> None:
        """Build the ``Dockerfile`` in ``folder`` with the host's network."""
        from docker.errors import BuildError

        try:
            with _readable_errors(f"build {tag}"):
                self._client.images.build(
                    path=str(folder),
                    tag=tag,
                    buildargs=dict(arguments),
                    labels=dict(labels or {}),
                    network_mode="host",
                    rm=True,
                )
        except BuildError as error:
            output = [str(line.get("stream") or line.get("error") or "") for line in error.build_log]
            tail = "".join(output).strip().splitlines()[-15:]
            raise ContainerError(f"cannot build {tag}:\n" + "\n".join(tail)) from error

    def image_label(self, image: str, label: str) -> str | None:
        """The value of a label of an image, or None."""
        with _readable_errors(f"look for image {image}"):
            labels: Mapping[str, str] = self._client.images.get(image).labels or {}
            return labels.get(label)

    def image_size(self, image: str) -> int:
        """Bytes of all layers."""
        with _readable_errors(f"look for image {image}"):
            return int(self._client.images.get(image).attrs["Size"])

    def run(self, spec: ContainerSpec) -> ContainerStatus:
        """Create and start; a container that cannot start is removed again."""
        options = {name: value for name, value in spec.creation().items() if value is not None}
        with _readable_errors(f"start container {spec.name}"):
            container = self._client.containers.create(**options)
            try:
                container.start()
            except BaseException:
                container.remove(force=True)
                raise
        return self.status(container.id)

    def find(self, name: str) -> ContainerStatus | None:
        """The container of that name or id."""
        from docker.errors import NotFound

        with _readable_errors(f"look for container {name}"):
            try:
                return _status(self._client.containers.get(name))
            except NotFound:
                return None

    def status(self, name: str) -> ContainerStatus:
        found = self.find(name)
        if found is None:
            raise ContainerError(f"there is no container {name}")
        return found

    def labelled(self, label: str, value: str) -> list[ContainerStatus]:
        """All containers with that label, running or not."""
        with _readable_errors("list containers"):
            labels = {"label": f"{label}={value}"}
            # It looks at one after another, and one may be removed meanwhile.
            found = self._client.containers.list(all=True, filters=labels, ignore_removed=True)
            return [_status(container) for container in found]

    def start(self, name: str) -> None:
        with _readable_errors(f"start container {name}"):
            self._client.containers.get(name).start()

    def stop(self, name: str, seconds: int) -> None:
        """Ask it to end, and insist after ``seconds``."""
        with _readable_errors(f"stop container {name}"):
            self._client.containers.get(name).stop(timeout=seconds)

    def rename(self, name: str, new: str) -> None:
        with _readable_errors(f"rename container {name}"):
            self._client.containers.get(name).rename(new)

    def remove(self, name: str) -> None:
        """Remove it, running or not."""
        with _readable_errors(f"remove container {name}"):
            self._client.containers.get(name).remove(force=True, v=True)

    def logs(self, name: str, lines: int) -> str:
        """The last lines that it wrote, both streams."""
        with _readable_errors(f"read the log of container {name}"):
            output: bytes = self._client.containers.get(name).logs(tail=lines)
            return output.decode("utf-8", "replace").rstrip()

    def follow_log(self, name: str, lines: int) -> Iterator[str]:
        """The last lines that it wrote, and those that it writes until it ends."""
        with _readable_errors(f"read the log of container {name}"):
            stream: Iterator[bytes] = self._client.containers.get(name).logs(
                tail=lines, stream=True, follow=True
            )
            rest = b""
            for part in stream:
                *whole, rest = (rest + part).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
            if rest:
                yield rest.decode("utf-8", "replace")


def _status(container: Any) -> ContainerStatus:
    state = container.attrs["State"]
    published = cast("dict[str, Any]", container.attrs["NetworkSettings"]["Ports"] or {})
    ports = {
        int(inside.partition("/")[0]): int(bound[0]["HostPort"])
        for inside, bound in published.items()
        if bound
    }
    return ContainerStatus(
        id=container.id,
        name=container.name,
        running=state["Running"] and not state.get("Restarting"),
        exit_code=state["ExitCode"],
        labels=container.labels,
        ports=ports,
    )


def _device_requests(gpus: str | None) -> list[Any] | None:
    if gpus is None:
        return None
    from docker.types import DeviceRequest

    if gpus.startswith("device="):
        devices = gpus.removeprefix("device=").split(",")
        return [DeviceRequest(device_ids=devices, capabilities=[["gpu"]])]
    return [DeviceRequest(count=-1 if gpus == "all" else int(gpus), capabilities=[["gpu"]])]


@contextmanager
def _readable_errors(doing: str) -> Generator[None]:
    """Errors of the library as a `ContainerError` of one line."""
    from docker.errors import APIError, BuildError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except BuildError:
        raise
    except APIError as error:
        raise ContainerError(f"cannot {doing}: {error.explanation or error}") from error
    except (DockerException, RequestException, OSError) as error:
        raise EngineUnreachable(
            f"cannot {doing}: no Docker engine answers. Start it, or do without it (for deploy: backend=process)"
        ) from error
