"""Logging, as text or JSON lines, and metrics in Prometheus' format."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from assets_pkg.nim.settings import ServerSettings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Upper bounds of the histograms' buckets."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and, after a failure, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


def set_up_logging(settings: ServerSettings) -> None:
    """Log to standard error in the configured format and level."""
    handler = logging.StreamHandler()
    if settings.log_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


class Metrics:
    """One server's counters, in a registry of their own so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

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
        self.model = Gauge(
            "retune_model_info", "1, labelled with the model", ["model", "digest"], registry=self.registry
        )

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
