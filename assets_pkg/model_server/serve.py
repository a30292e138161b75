"""``retune serve --model NAME``: open a registered model and serve it until told to stop."""

from __future__ import annotations

import socket
from pathlib import Path

from assets_pkg.model_server.api import build_app
from assets_pkg.model_server.engine import Engine, Served
from resources.encoders.factory import UnavailableError, look_up, open_encoder
from resources.machine.accelerator import Accelerator
from resources.models.registry import load_registry
from storage.errors import RetuneError

GRACE_S = 10


class ServeError(RetuneError, RuntimeError):
    """The model cannot be served; the message is one line."""


def open_served(name: str, accelerator: Accelerator | None = None, registry: Path | None = None) -> Served:
    """The model behind a registry name, its weights on this machine.

    Raises:
        RegistryError: there is no such model.
        ServeError: its weights are not here or are broken; a server is not put in front of a server.
    """
    found = look_up(load_registry(registry), name)
    if found.location.kind == "server":
        raise ServeError(
            f"{found.name} has no weights on this machine, only a base_url ({found.location.url}): "
            f"retune models download {found.name}"
        )
    try:
        return Served(found.name, found.entry, open_encoder(found, accelerator))
    except UnavailableError as error:
        raise ServeError(str(error)) from error


def serve_model(
    name: str, host: str = "127.0.0.1", port: int = 8003, accelerator: Accelerator | None = None
) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered first.

    Raises:
        ServeError: the port cannot be had, or see `open_served`.
    """
    import uvicorn

    with _bind(host, port) as listener:
        engine = Engine(open_served(name, accelerator))
        try:
            config = uvicorn.Config(
                build_app(engine), log_level="info", access_log=False, timeout_graceful_shutdown=GRACE_S
            )
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            engine.close()


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is told at once."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServeError(
            f"cannot serve on {host} port {port}: {error.strerror}: choose another --port"
        ) from error
    return listener
