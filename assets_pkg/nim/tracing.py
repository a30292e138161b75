"""Traces in OpenTelemetry's format: a span for each request for embeddings, with spans for its steps inside.

They are sent over OTLP (HTTP) as the standard variables say: ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``,
``OTEL_TRACES_SAMPLER``, ... A request with a ``traceparent`` header becomes part of its client's trace.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from starlette.types import Scope

from assets_pkg.nim.settings import ObservedSettings

COUNTS = "retune.counts"
"""Key in the scope of a request: how many texts and tokens it had."""

STATUS = "retune.status"
"""Key in the scope of a request: the status that it was answered with."""

SERVICE_NAME = "retune-embedding"
_NOTHING = nullcontext()


class TracingError(Exception):
    """Traces are asked for and the packages for them are missing."""


class Tracing(Protocol):
    def request(self, scope: Scope, request_id: str) -> AbstractContextManager[object]:
        """The time of one request. ``STATUS`` and ``COUNTS`` are read from its scope at the end."""
        ...

    def step(self, name: str) -> AbstractContextManager[object]:
        """The time of one step of the current request."""
        ...

    def close(self) -> None:
        """Send what is recorded."""
        ...


class NoTracing:
    def request(self, scope: Scope, request_id: str) -> AbstractContextManager[object]:
        return _NOTHING

    def step(self, name: str) -> AbstractContextManager[object]:
        return _NOTHING

    def close(self) -> None:
        return None


def tracing_of(settings: ObservedSettings) -> Tracing:
    """Raises `TracingError`."""
    return OtlpTracing() if settings.tracing else NoTracing()


class OtlpTracing:
    """Raises `TracingError` where OpenTelemetry's packages are missing."""

    def __init__(self) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise TracingError(
                "NIM_ENABLE_OTEL needs further packages: pip install 'retune-embed[otel]'"
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE_NAME
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("retune.embedding_server")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope, request_id: str) -> Generator[None]:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "client.address": scope["client"][0] if scope["client"] else "",
            "retune.request_id": request_id,
        }
        name = f"{scope['method']} {scope['path']}"
        context = self._propagator.extract(headers)
        with self._tracer.start_as_current_span(name, context, SpanKind.SERVER, attributes) as span:
            yield
            status = scope.get(STATUS, 0)
            span.set_attribute("http.response.status_code", status)
            for counted, count in scope.get(COUNTS, {}).items():
                span.set_attribute(f"retune.{counted}", count)
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))

    def step(self, name: str) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(name)

    def close(self) -> None:
        self._provider.shutdown()
