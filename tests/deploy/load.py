"""Loads on a server: a steady one, with the longest time without an answer, and one long request."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import httpx2

from assets_pkg.deploy.server_client import server_client


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


LONG = [f"{number} " + "many words of a long text " * 60 for number in range(2048)]
"""Texts that keep a tiny model busy for some seconds."""


class LongRequest:
    """A request that the server is working on when the block begins."""

    def __init__(self, url: str, texts: Sequence[str] = LONG, model: str = "tiny") -> None:
        self.url, self.texts, self.model = url, texts, model
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> LongRequest:
        self._answer = self._pool.submit(self._ask)
        while not self._busy():
            assert not self._answer.done()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def answered(self) -> int:
        """The number of vectors; the status where it is an error."""
        answer = self._answer.result()
        return len(answer.json()["data"]) if answer.status_code == httpx2.codes.OK else answer.status_code

    def _ask(self) -> httpx2.Response:
        body = {"model": self.model, "input": list(self.texts), "input_type": "passage", "truncate": "END"}
        with server_client(self.url, 130) as client:
            return client.post("/v1/embeddings", json=body)

    def _busy(self) -> bool:
        with server_client(self.url, 30) as client:
            lines = client.get("/v1/metrics").text.splitlines()
        return any(line.startswith("retune_queued_tokens") and float(line.split()[-1]) > 0 for line in lines)
