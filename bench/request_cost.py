"""Processor time that the embedding server spends on a request of one short text outside the model.

    python bench/request_cost.py EXPORT [--log] [--profile]

The application runs in this process, without sockets, over a model that answers at once. EXPORT is a served-model
folder; ``--log`` formats and writes the access log, to nowhere; ``--profile`` prints where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import os
import pstats
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from assets_pkg.nim.__main__ import _collect_garbage_less
from assets_pkg.nim.api import build_app
from assets_pkg.nim.loading import LoadedModel, load_export
from assets_pkg.nim.model import Model, TokenMatrix, Vectors
from assets_pkg.nim.observability import TextFormatter
from assets_pkg.nim.service import EmbeddingService
from assets_pkg.nim.settings import ServerSettings
from assets_pkg.nim.tokens import TokenIds

REQUESTS, ROUNDS = 1000, 7
TEXT = "what is the best retriever for short questions?"


class FreeModel(Model):
    """Gives every text the same vector."""

    provider = "none"

    def __init__(self, dimensions: int) -> None:
        super().__init__(Path(), dimensions)
        self._vector = np.full(dimensions, dimensions**-0.5, np.float32)

    def embed(self, rows: Sequence[TokenIds]) -> Vectors:
        return np.broadcast_to(self._vector, (len(rows), self.dimensions))

    def _run(self, input_ids: TokenMatrix, attention_mask: TokenMatrix) -> Vectors:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.log:
        handler = logging.FileHandler(os.devnull)
        handler.setFormatter(TextFormatter())
        logging.basicConfig(level="INFO", handlers=[handler])
    settings = ServerSettings(model_dir=options.export, workers=1, gather_ms=0, access_log=options.log)
    service = EmbeddingService(settings, _free)
    _collect_garbage_less()
    try:
        _measure(build_app(service), options.profile)
    finally:
        service.close()


def _free(folder: Path, max_length: int | None) -> LoadedModel:
    loaded = load_export(folder, max_length)
    model = FreeModel(loaded.manifest.dimensions)
    return LoadedModel(loaded.manifest, loaded.tokenizer, model, loaded.created)


def _measure(app: Any, profiled: bool) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_ask(app, REQUESTS))
        spent = []
        for _ in range(ROUNDS):
            started = time.process_time()
            runner.run(_ask(app, REQUESTS))
            spent.append((time.process_time() - started) / REQUESTS * 1e6)
        print(f"{min(spent):.0f} microseconds for a request (the slowest round: {max(spent):.0f})")
        if profiled:
            profile = cProfile.Profile()
            profile.runcall(runner.run, _ask(app, REQUESTS))
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)


async def _ask(app: Any, times: int) -> None:
    body = json.dumps({"input": [TEXT], "input_type": "query"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    for _ in range(times):
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/v1/embeddings"}
        await app({**scope, "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)


if __name__ == "__main__":
    main()
