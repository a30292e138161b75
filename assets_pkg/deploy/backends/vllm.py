"""The checkpoint itself under vLLM, as a local process on a GPU.

Two vLLM servers seldom fit one GPU, so a new one cannot be tested beside the old: the old one is stopped, the new
one started on its port and tested there (ready, the right folder, embeddings equal to the checkpoint's). Clients get
refused connections meanwhile (``gap_s``). If the new one fails, the old one is started again.

vLLM reports no digest, but the path that it loaded; a checkpoint's folder is named by its digest.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from assets_pkg.config.sections.deploy import DeploySettings
from assets_pkg.deploy.backends.process import ServerState, start_process
from assets_pkg.deploy.configuration import with_model
from assets_pkg.deploy.server_client import CERTIFICATE_VARIABLE, get, get_fields, server_key
from assets_pkg.deploy.server_state import (
    STOP_SECONDS,
    DeployError,
    RunningServer,
    ServedModel,
    SmokeCheck,
    asks_for_tls,
    await_serving,
    require_port,
    write_state,
)
from storage.progress import Note, no_note

PROGRAM = "vllm"
KEY_VARIABLE = "VLLM_API_KEY"


@dataclass(frozen=True)
class VllmState(ServerState):
    """The stored state of a vLLM process. ``gap_s``: how long no server answered when it took over, in seconds."""

    served_name: str = ""
    gap_s: float = 0.0
    backend: str = "vllm"

    def serves_its_model(self) -> bool:
        if get(self.url, "/health") is None:
            return False
        models = get_fields(self.url, "/v1/models", with_key=True).get("data")
        wanted = self.served_name, self.model_folder
        return isinstance(models, list) and any(
            isinstance(each, dict) and (each.get("id"), each.get("root")) == wanted for each in models
        )


def deploy_vllm(
    served: ServedModel,
    settings: DeploySettings,
    folder: Path,
    smoke_check: SmokeCheck,
    old: RunningServer | None,
    note: Note = no_note,
) -> VllmState:
    """Serve the checkpoint under vLLM on the profile's port, in place of ``old``.

    Raises:
        DeployError: no GPU or no vLLM, another program holds the port, or the new server failed its test; the old
            one serves again.
    """
    served.refuse_query_map("vLLM")
    require_vllm()
    if asks_for_tls():
        raise DeployError(
            f"{CERTIFICATE_VARIABLE} is set, and deploy.backend=vllm serves plain HTTP: unset it, and put a proxy with "
            "TLS in front"
        )
    require_port(settings, ours=old)
    if old is not None:
        old.stop(note)
    stopped = time.monotonic()
    new = _start(served.checkpoint, served.digest, settings, folder)
    try:
        await_serving(new, settings.startup_timeout_s)
        smoke_check(new.url)
    except BaseException:
        new.stop()
        if isinstance(old, VllmState):
            _restart(old, settings, folder)
        raise
    new = replace(new, gap_s=round(time.monotonic() - stopped, 2) if old else 0.0)
    write_state(folder, asdict(new))
    return new


def vllm_command(checkpoint: Path, name: str, host: str, port: int) -> list[str]:
    """The command that serves a checkpoint's embeddings."""
    command = [PROGRAM, "serve", str(checkpoint), "--runner", "pooling", "--convert", "embed"]
    return [*command, "--served-model-name", name, "--host", host, "--port", str(port)]


def require_vllm() -> None:
    """Raises `DeployError` where vLLM cannot run."""
    if not has_gpu():
        raise DeployError(
            "deploy.backend=vllm needs a CUDA device, and torch sees none: set deploy.backend=process, which "
            "serves on a CPU"
        )
    if shutil.which(PROGRAM) is None:
        raise DeployError(
            f"deploy.backend=vllm needs the program {PROGRAM}: pip install vllm (in an environment of its own is "
            "fine, if its bin folder is on PATH)"
        )


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _start(checkpoint: Path, digest: str, settings: DeploySettings, folder: Path) -> VllmState:
    path, name = checkpoint.resolve(), settings.served_model_name
    command = vllm_command(path, name, settings.host, settings.host_port)
    log = folder / "server.log"
    key = server_key()
    pid, started = start_process(command, {KEY_VARIABLE: key} if key else {}, log)
    endpoint = settings.host, settings.host_port
    return VllmState(
        pid,
        started,
        *endpoint,
        digest,
        str(path),
        str(log.absolute()),
        served_name=name,
        configuration=with_model(settings, path, digest),
    )


def _restart(old: VllmState, settings: DeploySettings, folder: Path) -> None:
    """Start the old server again, with its own name and port."""
    as_before = {"served_model_name": old.served_name, "host": old.host, "host_port": old.port}
    restarted = _start(
        Path(old.model_folder), old.model_digest, settings.model_copy(update=as_before), folder
    )
    write_state(folder, asdict(restarted))
    await_serving(restarted, max(settings.startup_timeout_s, STOP_SECONDS))
