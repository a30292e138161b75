"""The application in this process, without a socket: for what does not depend on connections or signals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2

from assets_pkg.nim.api import build_app
from assets_pkg.nim.loading import Load, load_export
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import ServerSettings


class Local:
    """One server's application; ``ask`` sends one request and waits for its answer."""

    def __init__(self, folder: Path, load: Load = load_export, **settings: Any) -> None:
        self.service = EmbeddingService(ServerSettings(model_dir=folder, workers=1, **settings), load)
        self.app: Any = build_app(self.service)

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        async def send(client: httpx2.AsyncClient) -> httpx2.Response:
            return await client.request(method, path, **options)

        return self.run(send)

    def embed(self, **body: Any) -> httpx2.Response:
        return self.ask("POST", "/v1/embeddings", json=body)

    def run(self, work: Callable[[httpx2.AsyncClient], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            transport = httpx2.ASGITransport(self.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://local") as client:
                return await work(client)

        return asyncio.run(inside())

    def close(self) -> None:
        self.service.close()
