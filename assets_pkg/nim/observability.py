"""Logging, as text or JSON lines, and metrics in Prometheus' format."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from assets_pkg.nim.settings import ObservedSettings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Upper bounds of the histograms' buckets."""

LOG_FILE_BYTES = 16 * 2**20
LOG_FILES_KEPT = 4


class Access(NamedTuple):
    """A line of the access log: one request that was answered, or whose client left (status 499).

    ``seconds``: from its head to the end of its answer; ``counts``: of its texts and tokens, where it was embedded.
    """

    client: str
    request: str
    status: int | str
    seconds: float
    request_id: str
    counts: Mapping[str, int]

    def __str__(self) -> str:
        counts = "".join(f", {count} {name}" for name, count in self.counts.items())
        return (
            f'{self.client} "{self.request}" {self.status} {self.seconds * 1000:.1f} ms{counts}, '
            f"request {self.request_id}"
        )

    def fields(self) -> dict[str, Any]:
        return {
            "message": f"{self.request} {self.status}",
            "client": self.client,
            "request": self.request,
            "status": self.status,
            "seconds": round(self.seconds, 6),
            "request_id": self.request_id,
            **self.counts,
        }


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what an `Access` says and a failure's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            **(record.msg.fields() if isinstance(record.msg, Access) else {"message": record.getMessage()}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


class TextFormatter(logging.Formatter):
    """A line of text; the time of a second is written once."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second[0]:
            self._second = second, super().formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{self._second[1]},{record.msecs:03.0f}"


class LogFile(RotatingFileHandler):
    """A log file that is appended to, and rotated by size; what is written to standard output and error goes there too.

    A server and its successor log to one file while the first drains: each goes on with the file that the other has
    rotated in.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8")

    def _open(self) -> Any:
        stream = super()._open()
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
        return stream

    def shouldRollover(self, record: logging.LogRecord) -> int:
        if self.stream is not None and not self._is_current():
            self.stream.close()
            self.stream = self._open()
        return super().shouldRollover(record)

    def _is_current(self) -> bool:
        assert self.stream is not None
        try:
            return os.path.samestat(os.fstat(self.stream.fileno()), Path(self.baseFilename).stat())
        except FileNotFoundError:
            return False


def set_up_logging(settings: ObservedSettings) -> None:
    """Log to standard error, or to the configured file, in the configured format and level.

    Raises:
        OSError: the file cannot be written.
    """
    handler = logging.StreamHandler() if settings.log_file is None else LogFile(settings.log_file)
    handler.setFormatter(JsonFormatter() if settings.log_json else TextFormatter())
    # No formatter says them, and finding them out for each line takes time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class Metrics:
    """One server's counters, in a registry of their own so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def histogram(name: str, description: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"retune_{name}", description, buckets=buckets, registry=self.registry)

        self.requests = Counter(
            "retune_requests", "Requests answered", ["endpoint", "code"], registry=self.registry
        )
        self.abandoned = Counter(
            "retune_requests_abandoned",
            "Requests whose client left before the answer",
            registry=self.registry,
        )
        self.tokens = Counter("retune_tokens", "Tokens embedded, padding not counted", registry=self.registry)
        self.texts = Counter("retune_texts", "Texts embedded", registry=self.registry)
        self.request_seconds = histogram("request_seconds", "From a request's body to its answer")
        self.tokenize_seconds = histogram("tokenize_seconds", "Tokenising one request's texts")
        self.queue_seconds = histogram("queue_seconds", "A request's wait for its first batch")
        self.batch_seconds = histogram("batch_seconds", "Running one batch")
        self.batch_rows = histogram("batch_rows", "Texts in a batch", ROWS)
        self.batch_fill = histogram("batch_fill_ratio", "Share of a batch that is not padding", SHARES)
        self.queued_requests = Gauge(
            "retune_queued_requests", "Requests not yet answered", registry=self.registry
        )
        self.queued_tokens = Gauge(
            "retune_queued_tokens", "Tokens waiting for a batch", registry=self.registry
        )
        self.threads_replaced = Counter(
            "retune_inference_threads_replaced",
            "Inference threads that ended by a fault and were replaced",
            registry=self.registry,
        )
        self.model = Gauge(
            "retune_model_info", "1, labelled with the model", ["model", "digest"], registry=self.registry
        )

    def value(self, name: str) -> int:
        """The present value of a counter, by the whole name of its sample."""
        return int(self.registry.get_sample_value(name) or 0)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
