"""``retune serve --model NAME``: load a registered model and serve it until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.model_server.api import build_app
from assets_pkg.model_server.engine import Engine, ModelServerSettings, Served
from assets_pkg.nim.errors import PortError
from assets_pkg.nim.observability import set_up_logging
from assets_pkg.nim.server import bind, guarded_config
from assets_pkg.nim.settings import SettingsError, front_settings_from
from assets_pkg.nim.tracing import TracingError
from resources.encoders.factory import UnavailableError, look_up, open_encoder
from resources.machine.accelerator import Accelerator
from resources.models.registry import load_registry
from storage.errors import RetuneError
from storage.progress import no_note

if TYPE_CHECKING:
    import uvicorn

GRACE_S = 10


class ServeError(RetuneError, RuntimeError):
    """The model cannot be served; the message is one line."""


def open_served(name: str, accelerator: Accelerator | None = None, registry: Path | None = None) -> Served:
    """The model behind a registry name, its weights on this machine.

    Raises:
        RegistryError: there is no such model.
        ServeError: its weights are missing or damaged, or it is itself a server (those are not proxied).
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
    name: str,
    host: str = "127.0.0.1",
    port: int = 8003,
    accelerator: Accelerator | None = None,
    *,
    ready: Callable[[str], object] = no_note,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are answered first. ``ready`` is called with the URL when it
    answers.

    The key that clients must send, the limits, the log and the traces are those of the embedding server's environment
    variables (``RETUNE_API_KEY``, ...).

    Raises:
        ServeError: a variable's value is invalid, it cannot listen on the port, or see `open_served`.
    """
    try:
        settings = front_settings_from(ModelServerSettings, os.environ)
        set_up_logging(settings)
        listener = bind(host, port)  # before the model is loaded, so that a port in use is reported at once
    except SettingsError as error:
        raise ServeError(str(error)) from error
    except OSError as error:
        raise ServeError(f"RETUNE_LOG_FILE: {error.filename}: {error.strerror}") from error
    except PortError as error:
        raise ServeError(f"{error}: choose another --port") from error
    with listener:
        try:
            engine = Engine(open_served(name, accelerator), settings)
        except TracingError as error:
            raise ServeError(str(error)) from error
        try:
            config = guarded_config(build_app(engine), settings, grace_s=GRACE_S, log_config=None)
            url = shown_url(listener, tls=settings.tls_cert_path is not None)
            server_type()(config, partial(ready, url)).run(sockets=[listener])
        except PortError as error:
            raise ServeError(str(error)) from error
        finally:
            engine.close()


def ready_line(name: str, url: str, verb: str = "is served") -> str:
    """What to say of a server: that it answers, or with another ``verb`` that it will."""
    return f"{name} {verb} at {url} (documentation of all routes: {url}/docs)"


def shown_url(listener: socket.socket, *, tls: bool = False) -> str:
    """Where a server is reached from this machine, also if it listens on all addresses."""
    bound: tuple[str, int] = listener.getsockname()[:2]
    return url_of(*bound, tls=tls)


def url_of(host: str, port: int, *, tls: bool = False) -> str:
    """The same of an address that a server will listen on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def server_type() -> Callable[[uvicorn.Config, Callable[[], object]], uvicorn.Server]:
    """A uvicorn server that calls back once it accepts connections."""
    import uvicorn

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config, started: Callable[[], object]):
            super().__init__(config)
            self._tell = started

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self._tell()

    return Server
