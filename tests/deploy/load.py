"""A steady load on a server, and the longest time without an answer."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import httpx2


class SteadyLoad:
    """Clients that send one request after another, each on a new connection.

    ``statuses``: the status of each answer. ``refused`` counts connections that were refused, ``broken`` those that
    were accepted and not answered. ``longest_gap_s``: the longest time between two answers.
    """

    def __init__(self, url: str, model: str, clients: int = 3):
        self._url, self._model = url, model
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self._last = time.monotonic()
        self.statuses: list[int] = []
        self.refused = 0
        self.broken = 0
        self.longest_gap_s = 0.0

    def __enter__(self) -> SteadyLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        body = {"model": self._model, "input": "steady", "input_type": "query"}
        while not self._stop.wait(0.01):
            try:
                status = httpx2.post(f"{self._url}/v1/embeddings", json=body, timeout=30).status_code
            except httpx2.ConnectError:
                with self._lock:
                    self.refused += 1
                continue
            except httpx2.HTTPError:
                with self._lock:
                    self.broken += 1
                continue
            with self._lock:
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - self._last)
                self._last = now
                self.statuses.append(status)
