"""What every server does before it looks into a request: key, media type, limits, deadlines, clients that leave."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Response
from starlette.requests import ClientDisconnect, Request

from assets_pkg.nim.errors import (
    ApiError,
    BodyTooLargeError,
    OverloadedError,
    SlowRequestError,
    UnauthorizedError,
    UnsupportedMediaError,
    failure_response,
    response_to,
)
from assets_pkg.nim.settings import FrontSettings

log = logging.getLogger(__name__)

BODIES_HELD = 16
"""The limit on bodies in memory, in bodies of the largest allowed size."""

CLIENT_SHARE = 0.5
"""The share of this limit that the requests of one address may hold, so that it alone keeps nobody out."""

ON_DISCONNECT = "retune.on_disconnect"
"""Key in the scope of a request in progress: the function that the connection calls when it is lost."""

CLIENT_CLOSED_REQUEST = 499
"""Logged and counted for a client that disconnected; it is never received."""

Work = Callable[[bytes], Awaitable[Response]]
Take = Callable[[int], None]


class Front:
    """Lets requests in, and turns whatever goes wrong with one into an answer.

    Only what has arrived counts: a body that is announced and does not come takes no memory from others.

    Args:
        bodies_held: how many bodies of the largest allowed size may be in memory.
        on_left: called for each request whose client left before its answer.
    """

    def __init__(
        self,
        settings: FrontSettings,
        *,
        bodies_held: int = BODIES_HELD,
        on_left: Callable[[], None] = lambda: None,
    ) -> None:
        self.requests = 0
        self._settings = settings
        self._on_left = on_left
        self._limit = bodies_held * settings.body_limit_bytes
        self._held = 0
        self._held_by: Counter[str] = Counter()

    def check_key(self, authorization: str) -> None:
        """Check the value of an ``Authorization`` header.

        Without a configured key any value is accepted: stock clients send placeholders when they have none.

        Raises:
            UnauthorizedError: a key is configured and this is another one.
        """
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, credential = authorization.partition(" ")
        matches = hmac.compare_digest(credential.strip().encode(), key.get_secret_value().encode())
        if scheme.lower() != "bearer" or not matches:
            raise UnauthorizedError("A valid API key is needed.", {"WWW-Authenticate": "Bearer"})

    @contextmanager
    def admitted(self) -> Generator[None]:
        """Count one request, whose body has arrived, until the block ends.

        Raises:
            OverloadedError: the limit is reached.
        """
        self._check_room()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def holding(self, client: str) -> Generator[Take]:
        """A function that counts bytes of a client's body against the limits, until the block ends.

        It raises `OverloadedError` where a limit would be passed.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            full = self._held + size > self._limit
            if full or self._held_by[client] + size > CLIENT_SHARE * self._limit:
                raise _overloaded()
            held += size
            self._held += size
            self._held_by[client] += size

        try:
            yield take
        finally:
            self._held -= held
            self._held_by[client] -= held
            if not self._held_by[client]:
                del self._held_by[client]

    async def answer(self, request: Request, work: Work) -> Response:
        """What ``work`` makes of the request's body, or an error in NIM's format; raises nothing.

        When the client leaves, ``work`` is cancelled at once.
        """
        try:
            async with self._received(request) as body:
                return await self._unless_left(request, work(body))
        except ApiError as error:
            return response_to(error)
        except ClientDisconnect:
            return self._left()
        except Exception:
            log.exception("a request failed")
            return failure_response()

    @asynccontextmanager
    async def _received(self, request: Request) -> AsyncGenerator[bytes]:
        """The body of a request that may come in, counted until the block ends."""
        self.check_key(request.headers.get("authorization", ""))
        check_media(request)
        self._check_announced(request)
        self._check_room()
        with self.holding(request.client.host if request.client else "") as take:
            body = await self._read(request, take)
            with self.admitted():
                yield body

    def _check_room(self) -> None:
        if self.requests >= self._settings.max_queue_requests:
            raise _overloaded()

    def _check_announced(self, request: Request) -> None:
        """A body that is too large by its header is refused unread."""
        if int(request.headers.get("content-length", "0")) > self._settings.body_limit_bytes:
            raise self._too_large()

    async def _read(self, request: Request, take: Take) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.read_timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size > self._settings.body_limit_bytes:
                        raise self._too_large()
                    take(len(part))
                    parts.append(part)
        except TimeoutError as error:
            raise SlowRequestError("The body did not arrive in time.") from error
        return b"".join(parts)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The body is larger than {self._settings.body_limit_bytes} bytes.")

    async def _unless_left(self, request: Request, work: Awaitable[Response]) -> Response:
        guard = _DisconnectGuard(request)
        try:
            return await work
        except asyncio.CancelledError:
            if not guard.disconnected:
                raise
            return self._left()
        finally:
            guard.close()

    def _left(self) -> Response:
        self._on_left()
        return Response(status_code=CLIENT_CLOSED_REQUEST)


class _DisconnectGuard:
    """Cancels the task that created it as soon as the request's client has disconnected.

    The connection calls the function in the request's scope. ASGI's own way, a task that waits for the message
    ``http.disconnect``, would take a tenth of a request's time outside the model.
    """

    def __init__(self, request: Request) -> None:
        self.disconnected = False
        self._scope = request.scope
        self._task = asyncio.current_task()
        self._scope[ON_DISCONNECT] = self._cancel

    def _cancel(self) -> None:
        self.disconnected = True
        assert self._task is not None
        self._task.cancel()

    def close(self) -> None:
        del self._scope[ON_DISCONNECT]
        if self.disconnected:
            assert self._task is not None
            self._task.uncancel()


def check_media(request: Request) -> None:
    """Raises `UnsupportedMediaError` unless the body is plain JSON, or its type is not stated."""
    media = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMediaError("The body must be application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("The body must not be compressed.")


def _overloaded() -> OverloadedError:
    return OverloadedError("The server is at its limit of requests; try again later.")
