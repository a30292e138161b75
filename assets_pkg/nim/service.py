"""A loaded model as an asynchronous service: tokenise, queue, wait, truncate the vectors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from assets_pkg.nim.errors import ApiError, InternalError, OverloadedError
from assets_pkg.nim.front import Front
from assets_pkg.nim.loading import Load, load_export
from assets_pkg.nim.manifest import ServedModelManifest
from assets_pkg.nim.model import Vectors, usable_cpus
from assets_pkg.nim.observability import Metrics
from assets_pkg.nim.scheduler import QueuedRequest, QueueFullError, Scheduler
from assets_pkg.nim.schemas import EmbeddingRequest, RequestParser, truncate
from assets_pkg.nim.settings import ServerSettings
from assets_pkg.nim.tokens import TextError, TokenIds
from assets_pkg.nim.tracing import tracing_of

log = logging.getLogger(__name__)

INLINE_CHARS = 2048
"""Texts up to this total size are tokenised on the event loop: that is faster than a change of thread."""


class Embedded(NamedTuple):
    """``vectors``: float32 [texts, dimensions]; ``tokens`` of each text, with prefix and special tokens."""

    vectors: Vectors
    tokens: list[int]


class EmbeddingService:
    """Everything behind the routes: the model, its queue, its limits, and whether it is ready.

    Args:
        load: loads the model folder; an exported one by default.

    Raises:
        FolderError: the model folder cannot be served.
        TracingError: traces are asked for, and packages are missing.
    """

    def __init__(self, settings: ServerSettings, load: Load = load_export) -> None:
        self.tracing = tracing_of(settings)
        loaded = load(settings.model_dir, settings.max_length)
        loaded.warm_up()
        self.workers = workers = settings.workers or usable_cpus()
        self.settings = settings
        self.metrics = Metrics()
        self.manifest: ServedModelManifest = loaded.manifest
        self.created = loaded.created
        self.version = settings.model_version or self.manifest.model_digest[:12]
        self.parser = RequestParser(self.manifest, settings)
        self.draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.front = Front(settings, on_left=self.metrics.abandoned.inc)
        self._tokenizer = loaded.tokenizer
        self._query_map = loaded.query_map
        self.max_length = self._tokenizer.max_length
        self._tokenizer_threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenize")
        self._scheduler = Scheduler(
            loaded.model.embed,
            self.manifest.dimensions,
            workers=workers,
            batch_tokens=settings.batch_tokens,
            max_tokens=settings.max_queue_tokens,
            max_wait_s=settings.request_timeout_s,
            metrics=self.metrics,
            gather_s=settings.gather_ms / 1000,
            deliver=self._deliver,
        )
        self.metrics.model.labels(self.parser.names[0], self.manifest.model_digest).set(1)
        self.metrics.queued_requests.set_function(lambda: self.front.requests)
        log.info("serving %s (%s) with %d workers", self.parser.names[0], loaded.model.provider, workers)

    @property
    def not_ready_because(self) -> str | None:
        """Why the server does not accept requests, or ``None`` when it does."""
        if self.draining:
            return "Service is stopping."
        return self.not_live_because

    @property
    def not_live_because(self) -> str | None:
        """Why only a restart helps, or ``None``."""
        return None if self._scheduler.healthy else "An inference thread has ended."

    def close(self) -> None:
        """Finish the queue and end the threads."""
        self._tokenizer_threads.shutdown()
        self._scheduler.close()
        self.tracing.close()

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """Embed a request: rows of ``request.dimensions`` numbers, of length 1, and the tokens of each text.

        When it is cancelled its texts are taken out of the queue.

        Raises:
            ApiError: a text cannot be embedded, the queue is full, time is up or the model failed.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                with self.tracing.step("tokenize"):
                    rows = await self._tokenize(request)
                with self.tracing.step("embed"):
                    vectors = await self._infer(rows)
        except TimeoutError as error:
            raise OverloadedError("The request took too long; try again later.") from error
        self.metrics.request_seconds.observe(time.monotonic() - started)
        if self._query_map is not None and request.role == "query":
            vectors = self._query_map.apply(vectors)
        if request.dimensions < self.manifest.dimensions:  # of whole vectors the model has checked the length
            vectors = truncate(vectors, request.dimensions)
        return Embedded(vectors, [len(row) for row in rows])

    def _deliver(self, resolve: Callable[[], None]) -> None:
        """Called by an inference thread: one call to the event loop for all answers of a batch."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            log.debug("the event loop is closed: no client waits for this batch")

    async def _tokenize(self, request: EmbeddingRequest) -> list[TokenIds]:
        arguments = (request.texts, request.role, request.truncate)
        started = time.monotonic()
        try:
            if sum(map(len, request.texts)) <= INLINE_CHARS:
                return self._tokenizer.encode(*arguments)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._tokenizer_threads, self._tokenizer.encode, *arguments)
        except TextError as error:
            raise ApiError(str(error), param="input") from error
        finally:
            self.metrics.tokenize_seconds.observe(time.monotonic() - started)

    async def _infer(self, rows: list[TokenIds]) -> Vectors:
        queued: QueuedRequest | None = None
        self._loop = asyncio.get_running_loop()
        try:
            queued = self._scheduler.submit(rows)
            return await _resolved(queued, self._loop)
        except QueueFullError as error:
            raise OverloadedError("The queue is full; try again later.", error.retry_after_s) from error
        except asyncio.CancelledError:
            if queued is not None:
                self._scheduler.cancel(queued)
            raise
        except Exception as error:
            log.exception("inference failed")
            raise InternalError("The model failed on this input.") from error


async def _resolved(queued: QueuedRequest, loop: asyncio.AbstractEventLoop) -> Vectors:
    """The request's vectors. `_deliver` resolves it on the event loop, so the callback runs there too."""
    waiter = loop.create_future()
    queued.vectors.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
    await waiter
    return queued.vectors.result()
