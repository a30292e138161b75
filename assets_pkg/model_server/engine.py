"""One model behind the routes: loaded once, run by one thread, with a limit on the requests that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from assets_pkg.nim.errors import ApiError, OverloadedError
from resources.encoders.base import Role
from resources.encoders.items import Item, ItemEncoder, ItemError
from resources.models.entry import ModelEntry

if TYPE_CHECKING:
    from resources.encoders.base import Vectors

T = TypeVar("T")
MAX_WAITING = 64


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
    """

    def __init__(self, served: Served):
        self.served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._waiting = 0
        # The first run is slow, and fails here rather than in a request if the model cannot be used.
        self.dimensions: int = served.encoder.embed(["warm up"], "passage").shape[1]

    async def embed(self, read: Callable[[], Sequence[Item]], role: Role) -> Vectors:
        """Read items (images are decoded in the thread too) and embed them: float32 [n, d].

        Raises:
            ApiError: this model cannot embed an item (400), or too many requests wait (503).
        """
        return await self._run(lambda: self._embed(read(), role))

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.served.encoder.close()

    def _embed(self, items: Sequence[Item], role: Role) -> Vectors:
        try:
            return self.served.encoder.embed(items, role)
        except ItemError as error:
            raise ApiError(str(error)) from error

    async def _run(self, work: Callable[[], Any]) -> Any:
        if self._waiting >= MAX_WAITING:
            raise OverloadedError("The server is at its limit of requests; try again later.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1
