"""The embedding server as a container: Retune's own image, or NVIDIA's NIM.

A new server is tested beside the old one on a private port first: ready, right model digest (a closed NIM reports
none), embeddings equal to the checkpoint's. Two containers cannot publish one port, so the old one is then stopped and
the new one started on its port; clients get refused connections while it loads (``gap_s``). If it fails to start, it
is removed and the old one started again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.nim_image import USER, contract_of, host_cache, mounted_model
from assets_pkg.deploy.backends.own_image import image_variant, provide_image
from assets_pkg.deploy.configuration import (
    LIMIT_VARIABLE,
    NAMES_VARIABLE,
    served_names,
    with_model,
)
from assets_pkg.deploy.server_client import KEY_VARIABLE, TLS_VARIABLES, server_key
from assets_pkg.deploy.server_state import (
    DEFAULT_DRAIN_SECONDS,
    LOG_LINES_SHOWN,
    NOTE_SECONDS,
    STOP_SECONDS,
    AtAddress,
    DeployError,
    RunningServer,
    ServedModel,
    SmokeCheck,
    asks_for_tls,
    await_serving,
    drain_note,
    is_ready,
    require_memory,
    require_port,
    served_digest,
    write_state,
)
from resources.containers import ContainerEngine, ContainerError, ContainerSpec, ContainerStatus
from storage.progress import Note, no_note

INNER_PORT = 8000
OWNER_LABEL = "retune.state"
DIGEST_LABEL = "retune.model-digest"
NGC_REGISTRY = "nvcr.io/"
NGC_USER = "$oauthtoken"
NGC_KEY = "NGC_API_KEY"
TLS_INSIDE = ("/tls/certificate.pem", "/tls/key.pem")
TRIAL, PREVIOUS = "-trial", "-previous"


@dataclass(frozen=True)
class ContainerState(AtAddress):
    """The stored state of a server container.

    ``tells_digest``: whether the server reports its model's digest. ``gap_s``: how long no server answered when it
    took over, in seconds.
    """

    id: str
    name: str
    image: str
    host: str
    port: int
    model_digest: str
    tells_digest: bool
    engine: str | None
    gap_s: float = 0.0
    backend: str = "docker"
    configuration: Mapping[str, str] = field(default_factory=dict[str, str])
    tls: bool = False

    @property
    def handle(self) -> str:
        return f"container {self.name} ({self.id[:12]})"

    @property
    def log(self) -> str:
        return f"docker logs {self.name}"

    def alive(self) -> bool:
        """Whether this container runs; False where the engine does not answer."""
        try:
            found = self._engine().find(self.id)
        except ContainerError:
            return False
        return found is not None and found.running

    def serves_its_model(self) -> bool:
        return served_digest(self.url) == self.model_digest if self.tells_digest else is_ready(self.url)

    def stop(self, note: Note = no_note) -> bool:
        engine = self._engine()
        if engine.find(self.id) is None:
            return False
        _drain(engine, self, note)
        engine.remove(self.id)
        return True

    def kill(self) -> None:
        engine = self._engine()
        if engine.find(self.id) is not None:
            engine.remove(self.id)

    def follow_log(self, lines: int) -> Iterator[str]:
        return self._engine().follow_log(self.id, lines)

    def last_log(self, lines: int = LOG_LINES_SHOWN) -> str:
        try:
            return self._engine().logs(self.id, lines) or "(empty)"
        except ContainerError as error:
            return f"({error})"

    def _engine(self) -> ContainerEngine:
        return _engine_at(self.engine)


def deploy_container(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    old: RunningServer | None,
    engine: ContainerEngine,
    note: Note = no_note,
) -> ContainerState:
    """Serve the model in a container on the profile's port.

    Args:
        folder: the folder of the state; it also labels this project's containers.
        old: the container that runs now, if one does.

    Raises:
        DeployError: a requirement is missing, or the new server failed its test; the old one serves again.
        ContainerError: the engine does not answer, or refused.
    """
    _remove_leftovers(engine, settings, folder, old)
    preflight(served, settings, old, engine, note)
    _test_start(served, settings, folder, smoke_check, engine)
    new = _replace(served, settings, folder, old, engine, note)
    write_state(folder, asdict(new))
    if isinstance(old, ContainerState):
        engine.remove(old.id)
    return new


def container_spec(served: ServedModel, settings: DeploySettings, folder: Path) -> ContainerSpec:
    """The container that serves the model on the profile's port."""
    labels = {OWNER_LABEL: _owner(folder), DIGEST_LABEL: served.digest}
    common = ContainerSpec(
        image=settings.server_image if settings.server == "retune" else settings.nim_image,
        name=settings.container_name,
        publish={INNER_PORT: (settings.host, settings.host_port)},
        labels=labels,
        gpus=settings.gpus,
        shm_size=settings.shm_size,
        restart=True,
    )
    variables = {NAMES_VARIABLE: served_names(settings)}
    if settings.server == "retune":
        mounts = {served.onnx: "/model", **_tls_files()}
        variables |= {
            "NIM_CUSTOM_MODEL": "/model",
            LIMIT_VARIABLE: str(settings.max_client_batch_size),
            **(dict(zip(TLS_VARIABLES, TLS_INSIDE, strict=True)) if asks_for_tls() else {}),
        }
        secrets = (KEY_VARIABLE,) if server_key() else ()
        return replace(common, mounts=mounts, environment=variables, secrets=secrets, read_only=True)
    contract = contract_of(settings.nim_image)
    names = (
        variables[NAMES_VARIABLE] if contract.name_variable == NAMES_VARIABLE else settings.served_model_name
    )
    return replace(
        common,
        mounts={mounted_model(served, settings): contract.inside},
        volumes=(f"{host_cache()}:{contract.cache}",),
        environment={contract.name_variable: names, contract.path_variable: contract.inside},
        secrets=(NGC_KEY,),
        user=USER,
    )


def _tls_files() -> dict[Path, str]:
    """The certificate and its key of the environment, and where a container has them."""
    files = [os.environ.get(name) for name in TLS_VARIABLES]
    return {Path(here).absolute(): inside for here, inside in zip(files, TLS_INSIDE, strict=True) if here}


def container_configuration(served: ServedModel, settings: DeploySettings) -> dict[str, str]:
    """What the container of `container_spec` is made with."""
    return with_model(settings, mounted_model(served, settings), served.digest)


def preflight(
    served: ServedModel,
    settings: DeploySettings,
    old: RunningServer | None,
    engine: ContainerEngine,
    note: Note = no_note,
) -> None:
    """Check all requirements before a container is started, and pull or build the image where it is missing.

    Raises:
        DeployError, ContainerError: a requirement is missing; the message says what to do.
    """
    require_port(settings, ours=old)
    require_memory(served)
    if settings.gpus and not engine.has_gpus():
        raise DeployError(
            f"deploy.gpus={settings.gpus}: this Docker engine cannot hand out GPUs. Install the NVIDIA container "
            "toolkit, or set deploy.gpus=null"
        )
    if settings.server == "retune":
        provide_image(engine, settings.server_image, image_variant(settings), note)
        return
    if server_key():
        raise DeployError(
            f"{KEY_VARIABLE} is set, and {settings.nim_image} checks no key: set deploy.server=retune, or unset "
            f"{KEY_VARIABLE} and let something in front of the server check keys"
        )
    if not os.environ.get(NGC_KEY):
        raise DeployError(
            f"{NGC_KEY} is not set, and {settings.nim_image} needs it: put it in the environment"
        )
    if asks_for_tls():
        raise DeployError(
            f"{TLS_VARIABLES[0]} is set, and Retune does not set up TLS in {settings.nim_image}: set "
            "deploy.server=retune, or unset it and put a proxy with TLS in front"
        )
    mounted_model(served, settings)
    host_cache().mkdir(parents=True, exist_ok=True)
    if not engine.has_image(settings.nim_image):
        user = NGC_USER if settings.nim_image.startswith(NGC_REGISTRY) else None
        engine.pull(settings.nim_image, user, NGC_KEY if user else None)


def _test_start(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    engine: ContainerEngine,
) -> None:
    """Start the container on a private port, test it there and remove it."""
    spec = container_spec(served, settings, folder)
    name, publish = settings.container_name + TRIAL, {INNER_PORT: (settings.host, 0)}
    trial = engine.run(replace(spec, name=name, publish=publish, restart=False))
    try:
        state = _state(trial, spec, settings, served, engine)
        await_serving(state, settings.startup_timeout_s)
        smoke_check(state.url)
    finally:
        engine.remove(trial.id)


def _replace(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    old: RunningServer | None,
    engine: ContainerEngine,
    note: Note,
) -> ContainerState:
    """Stop the old container and start the new one on its port; on any failure restore the old one."""
    spec = container_spec(served, settings, folder)
    if isinstance(old, ContainerState):
        _drain(engine, old, note)
        engine.rename(old.id, old.name + PREVIOUS)
    stopped = time.monotonic()
    try:
        state = _state(engine.run(spec), spec, settings, served, engine)
        await_serving(state, settings.startup_timeout_s)
    except BaseException:
        failed = engine.find(settings.container_name)
        if failed is not None:
            engine.remove(failed.id)
        if isinstance(old, ContainerState):
            _restore(old, engine)
        raise
    return replace(state, gap_s=round(time.monotonic() - stopped, 2) if old else 0.0)


def _drain(engine: ContainerEngine, server: ContainerState, note: Note) -> None:
    """Ask the container to end, and wait until it has; an interrupt ends the waiting, not what was asked."""
    longest, done = DEFAULT_DRAIN_SECONDS, Future[None]()

    def stop() -> None:
        try:
            done.set_result(engine.stop(server.id, int(longest)))
        except Exception as error:  # noqa: BLE001 - raised to the one who waits
            done.set_exception(error)

    threading.Thread(target=stop, daemon=True, name="drain").start()
    begun = time.monotonic()
    while True:
        try:
            return done.result(NOTE_SECONDS)
        except TimeoutError:
            note(drain_note(server.handle, time.monotonic() - begun, longest))


def _restore(old: ContainerState, engine: ContainerEngine) -> None:
    """Give the old container its name back and start it."""
    engine.rename(old.id, old.name)
    engine.start(old.id)
    await_serving(old, STOP_SECONDS)


def _remove_leftovers(
    engine: ContainerEngine, settings: DeploySettings, folder: Path, old: RunningServer | None
) -> None:
    """Remove the containers that a killed deployment left; refuse a name that another program's container has."""
    ours = engine.labelled(OWNER_LABEL, _owner(folder))
    kept = old.id if isinstance(old, ContainerState) else None
    for leftover in ours:
        if leftover.id != kept:
            engine.remove(leftover.id)
    same_name = engine.find(settings.container_name)
    if same_name is not None and same_name.id != kept:
        raise DeployError(
            f"there is a container {settings.container_name} that this project did not start: choose another "
            "name with deploy.container_name=NAME"
        )


def recover(state: ContainerState) -> None:
    """Restore the old container after a deployment that was killed when it had stopped and renamed it."""
    try:
        engine = _engine_at(state.engine)
    except ContainerError:
        return
    found = engine.find(state.id)
    if found is None or found.name != state.name + PREVIOUS:
        return
    half_started = engine.find(state.name)
    if half_started is not None:
        engine.remove(half_started.id)
    _restore(state, engine)


def _state(
    container: ContainerStatus,
    spec: ContainerSpec,
    settings: DeploySettings,
    served: ServedModel,
    engine: ContainerEngine,
) -> ContainerState:
    return ContainerState(
        id=container.id,
        name=container.name,
        image=spec.image,
        host=settings.host,
        port=container.ports.get(INNER_PORT, settings.host_port),
        model_digest=served.digest,
        tells_digest=settings.server == "retune",
        engine=engine.base_url,
        configuration=container_configuration(served, settings),
        tls=asks_for_tls(),
    )


@cache
def _engine_at(address: str | None) -> ContainerEngine:
    """One connection for all requests while a server starts."""
    return ContainerEngine(address)


def _owner(folder: Path) -> str:
    return str(folder.absolute())
