"""The outermost layer: counts every answer, and sends clients elsewhere while the server drains."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets_pkg.nim.service import EmbeddingService

ENDPOINTS = frozenset(
    [
        "/v1/embeddings",
        *(f"/v1/{name}" for name in ("models", "metadata", "manifest", "version", "license", "metrics")),
        "/v1/health/live",
        "/v1/health/ready",
    ]
)
"""Paths counted by name; any other counts as ``other``, so that clients cannot make up label values."""


class Observed:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, service: EmbeddingService) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.service.metrics.requests.labels(endpoint, str(message["status"])).inc()
                if self.service.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, observed_send)
