"""A loaded model as an asynchronous service: tokenise, queue, wait, cut to the dimensions asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from assets_pkg.nim.errors import ApiError, InternalError, OverloadedError
from assets_pkg.nim.manifest import MODEL_FILE, ServedModelManifest, read_manifest
from assets_pkg.nim.metrics import Metrics
from assets_pkg.nim.model import OnnxModel, Vectors, usable_cpus
from assets_pkg.nim.parse import EmbeddingRequest, RequestParser
from assets_pkg.nim.scheduler import Job, QueueFullError, Scheduler
from assets_pkg.nim.settings import ServerSettings
from assets_pkg.nim.tokenize import TextError, TextTokenizer, TokenIds

log = logging.getLogger(__name__)

INLINE_CHARS = 2048
"""Texts up to this size together are tokenised on the event loop: it takes less than a change of thread."""

BODIES_HELD = 16
"""Bodies of the largest size that may be in memory together."""


class EmbeddingService:
    """Everything behind the routes: the model, its queue, its limits, and whether it is ready.

    Raises:
        FolderError: the model folder cannot be served.
    """

    def __init__(self, settings: ServerSettings) -> None:
        folder = settings.model_dir
        workers = settings.workers or usable_cpus()
        self.settings = settings
        self.metrics = Metrics()
        self.manifest: ServedModelManifest = read_manifest(folder)
        self.created = int((folder / MODEL_FILE).stat().st_mtime)
        self.version = settings.model_version or self.manifest.model_digest[:12]
        self.parser = RequestParser(self.manifest, settings)
        self.draining = False
        self._requests = 0
        self._body_bytes = 0
        self._tokenizer = TextTokenizer(folder, self.manifest, settings.max_length)
        model = OnnxModel(folder, self.manifest)
        model.warm_up(self._tokenizer.encode(["warm up"], "passage"))
        self.max_length = self._tokenizer.max_length
        self._tokenizer_threads = ThreadPoolExecutor(workers, thread_name_prefix="tokenize")
        self._scheduler = Scheduler(
            model.embed,
            self.manifest.dimensions,
            workers=workers,
            batch_tokens=settings.batch_tokens,
            max_tokens=settings.max_queue_tokens,
            max_wait_s=settings.request_timeout_s,
            metrics=self.metrics,
        )
        self.metrics.model.labels(self.parser.names[0], self.manifest.model_digest).set(1)
        self.metrics.queued_requests.set_function(lambda: self._requests)
        log.info("serving %s (%s) with %d workers", self.parser.names[0], model.provider, workers)

    @property
    def not_ready_because(self) -> str | None:
        """Why no request should be sent here, or ``None`` when there is no reason."""
        if self.draining:
            return "Service is stopping."
        if not self._scheduler.healthy:
            return "An inference thread has ended."
        return None

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._tokenizer_threads.shutdown()
        self._scheduler.close()

    @contextmanager
    def admitted(self, body_bytes: int) -> Generator[None]:
        """Hold a place for one request and the bytes of its body.

        Raises:
            OverloadedError: no place is left.
        """
        too_many = self._requests >= self.settings.max_queue_requests
        too_much = self._body_bytes + body_bytes > BODIES_HELD * self.settings.body_limit_bytes
        if too_many or too_much:
            raise OverloadedError("The server is at its limit of requests; try again later.")
        self._requests += 1
        self._body_bytes += body_bytes
        try:
            yield
        finally:
            self._requests -= 1
            self._body_bytes -= body_bytes

    async def embed(self, request: EmbeddingRequest) -> tuple[Vectors, int]:
        """Embed a request: float32 [texts, request.dimensions], rows of length 1; and the tokens read.

        Cancelling it takes its texts out of the queue.

        Raises:
            ApiError: a text cannot be embedded, the queue is full, time is up or the model failed.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                rows = await self._tokenize(request)
                vectors = await self._infer(rows)
        except TimeoutError as error:
            raise OverloadedError("The request took too long; try again later.") from error
        self.metrics.request_seconds.observe(time.monotonic() - started)
        return leading(vectors, request.dimensions), sum(len(row) for row in rows)

    async def _tokenize(self, request: EmbeddingRequest) -> list[TokenIds]:
        arguments = (request.texts, request.role, request.truncate)
        started = time.monotonic()
        try:
            if sum(map(len, request.texts)) <= INLINE_CHARS:
                return self._tokenizer.encode(*arguments)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._tokenizer_threads, self._tokenizer.encode, *arguments)
        except TextError as error:
            raise ApiError(str(error)) from error
        finally:
            self.metrics.tokenize_seconds.observe(time.monotonic() - started)

    async def _infer(self, rows: list[TokenIds]) -> Vectors:
        job: Job | None = None
        try:
            job = self._scheduler.submit(rows)
            return await asyncio.wrap_future(job.vectors)
        except QueueFullError as error:
            raise OverloadedError("The queue is full; try again later.", error.retry_after_s) from error
        except asyncio.CancelledError:
            if job is not None:
                self._scheduler.cancel(job)
            raise
        except Exception as error:
            log.exception("inference failed")
            raise InternalError("The model failed on this input.") from error


def leading(vectors: Vectors, dimensions: int) -> Vectors:
    """The first ``dimensions`` of each row, scaled to length 1: float32 [rows, dimensions].

    Raises:
        InternalError: a row has nothing there to scale.
    """
    if dimensions == vectors.shape[1]:
        return vectors
    part = vectors[:, :dimensions]
    norms = np.linalg.norm(part, axis=1, keepdims=True)
    if not norms.all():
        raise InternalError(f"The first {dimensions} dimensions of an embedding are all zero.")
    return part / norms
