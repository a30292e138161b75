"""One model behind the routes: loaded once, run by one thread, with limits on the requests that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets_pkg.model_server.bodies import SentItem, decoded
from assets_pkg.nim.errors import ApiError, OverloadedError
from assets_pkg.nim.front import Front
from assets_pkg.nim.settings import ObservedSettings, PositiveInt
from assets_pkg.nim.tracing import tracing_of
from resources.encoders.base import Role
from resources.encoders.items import ItemEncoder, ItemError
from resources.models.entry import ModelEntry

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

BODIES_HELD = 4
"""The limit on bodies in memory, in bodies of the largest allowed size; these are larger than the NIM server's."""


class ModelServerSettings(ObservedSettings):
    """The settings of the embedding server that apply, with limits for images and a single thread."""

    body_limit_bytes: PositiveInt = 64 * 2**20
    max_queue_requests: PositiveInt = 64


@dataclass(frozen=True)
class Served:
    """What is served: a model's name and entry in the registry, and the loaded model."""

    name: str
    entry: ModelEntry
    encoder: ItemEncoder

    @property
    def names(self) -> list[str]:
        """Every name that clients may use, the registry's first."""
        return list(dict.fromkeys([self.name, *filter(None, [self.entry.hub_id]), *self.entry.aliases]))


class Engine:
    """Runs a model's work one request after the other, off the event loop.

    A torch model uses all cores by itself, so a second thread would only slow the first.

    Raises:
        TracingError: traces are asked for, and packages are missing.
    """

    def __init__(self, served: Served, settings: ModelServerSettings | None = None):
        settings = settings or ModelServerSettings()
        self.settings, self.served = settings, served
        self.tracing = tracing_of(settings)
        self.front = Front(settings, bodies_held=BODIES_HELD)
        self._timeout_s = settings.request_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        # The first run is slow, and fails here rather than in a request if the model cannot be used.
        self.dimensions: int = served.encoder.embed(["warm up"], "passage").shape[1]

    async def embed(self, items: Sequence[SentItem], role: Role) -> Vectors:
        """Decode the images of items and embed them, both in the thread: float32 [n, d].

        When it is cancelled before the thread has begun with it, it is not begun.

        Raises:
            ApiError: this model cannot embed an item (400), or time is up (503).
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                with self.tracing.step("embed"):
                    return await loop.run_in_executor(self._thread, self._embed, items, role)
        except TimeoutError as error:
            raise OverloadedError("The request took too long; try again later.") from error

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.served.encoder.close()
        self.tracing.close()

    def _embed(self, items: Sequence[SentItem], role: Role) -> Vectors:
        served = self.served
        try:
            return served.encoder.embed(decoded(items, served.encoder.modalities, served.name), role)
        except ItemError as error:
            raise ApiError(str(error)) from error
