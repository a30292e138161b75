"""The HTTP server around the application: its socket, its limits on connections, its shutdown."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from assets_pkg.nim.api import build_app
from assets_pkg.nim.errors import PortError
from assets_pkg.nim.front import ON_DISCONNECT
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import FrontSettings

log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 60
HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024

SO_ATTACH_REUSEPORT_CBPF = 51
"""Linux; Python's socket module does not name it."""

BPF_RETURN_CONSTANT = 0x06


def bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket on the address that does not listen yet, so that no connection arrives before it can be served.

    With ``reuse_port`` several processes can hold the same port; one that only binds gets no connections.

    Raises:
        PortError: the address is in use, not allowed or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortError(f"cannot serve on {host} port {port}: {error.strerror}") from error
    return listener


def prefer(listener: socket.socket) -> None:
    """Have the kernel pass new connections to a shared port to ``listener``, the latest to listen there.

    Otherwise it spreads them over all listeners, and resets those that a closing listener has not accepted yet.
    With this a server that is being replaced gets no more of them, and closes without losing any.

    A BPF program of one instruction returns, for each connection, the index of the listener: 1 is the second.
    Where there is no second the kernel takes the first. Best effort: without it sharing still works.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN_CONSTANT, 0, 0, 1))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError as error:
        log.debug("new connections are spread over all listeners: %s", error)


class GuardedProtocol(HttpToolsProtocol):
    """Limits what a connection may hold, and reports its loss to its request at once.

    It is closed when a request's head is late, when more bytes than a head may have come without any of a body
    (a long head, trailers, chunk extensions), and after an answer to a request that was not read to its end, so that
    the rest is neither read nor taken for the next request. uvicorn limits none of these.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _bytes_outside_body = 0
    _keep_alive = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)
        on_disconnect = (self.scope or {}).get(ON_DISCONNECT)
        if on_disconnect is not None:
            on_disconnect()

    def data_received(self, data: bytes) -> None:
        self._bytes_outside_body += len(data)
        super().data_received(data)
        if self._bytes_outside_body > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._bytes_outside_body = 0
        self._await_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_timer is not None:  # else a trailer, which no route reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive

    def shutdown(self) -> None:
        self._keep_alive = False
        super().shutdown()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def guarded_config(
    app: ASGIApp, settings: FrontSettings, *, grace_s: int, **logging_options: Any
) -> uvicorn.Config:
    """uvicorn's configuration of every server: requests in progress have ``grace_s`` to end when it stops.

    Raises:
        PortError: the certificate or its key cannot be used.
    """
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
        **_tls_options(settings),
        **logging_options,
    )


def _tls_options(settings: FrontSettings) -> dict[str, Any]:
    certificate, key = settings.tls_cert_path, settings.tls_key_path
    if certificate is None or key is None:
        return {}
    try:
        # Here, where a fault can be said in a line. A key with a password would have uvicorn ask for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # SSLError is one
        raise PortError(
            f"{certificate} and {key} cannot be used for TLS: {error.strerror or error}"
        ) from error
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


class EmbeddingServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then drains.

    While it drains it reports "not ready" and sends "Connection: close", still accepting requests, for
    ``drain_grace_s``; then it stops listening and answers the requests it has accepted.

    Raises:
        PortError: gRPC is configured and its packages are missing; or, by `run`, it cannot listen on its address.
    """

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service
        settings = service.settings
        self._start_grpc = None if settings.grpc_port is None else _grpc_starter()
        self._grpc: Any = None
        super().__init__(
            guarded_config(
                build_app(service), settings, grace_s=int(settings.request_timeout_s) + 1, log_config=None
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._start_grpc is not None:
            self._grpc = await self._start_grpc(self._service)
        await super().startup(sockets)
        for listener in sockets or ():
            if self._service.settings.reuse_port:
                prefer(listener)
            scheme = "https" if self._service.settings.tls_cert_path else "http"
            log.info("listening on %s://%s:%d", scheme, *listener.getsockname()[:2])

    async def main_loop(self) -> None:
        await super().main_loop()
        self._service.draining = True
        if not self.force_exit:
            await asyncio.sleep(self._service.settings.drain_grace_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc is None:
            await super().shutdown(sockets)
            return
        grace = 0 if self.force_exit else self._service.settings.request_timeout_s
        await asyncio.gather(super().shutdown(sockets), self._grpc.stop(grace))


def _grpc_starter() -> Callable[[EmbeddingService], Awaitable[Any]]:
    try:
        from assets_pkg.nim.grpc_server import start_grpc
    except ImportError as error:
        raise PortError("gRPC needs further packages: pip install 'retune-embed[grpc]'") from error
    return start_grpc


def __getattr__(name: str) -> Any:
    """``app``, made when an ASGI server asks for it (``uvicorn assets_pkg.nim.server:app``)."""
    if name != "app":
        raise AttributeError(name)
    from assets_pkg.nim.asgi import app

    return app
