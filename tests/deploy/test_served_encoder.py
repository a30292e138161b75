"""The served endpoint as an encoder of the corpus: base64, a busy server, and a server that is replaced meanwhile."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets_pkg.deploy.served_encoder import BATCH, ServedEncoder
from assets_pkg.deploy.server_state import DeployError
from resources.encoders.cached import CachedEncoder
from storage.digests import digest_text
from storage.embedding_cache import EmbeddingCache
from tests.loopback import serving

TEXTS = [f"text {number}" for number in range(5 * BATCH + 1)]


class Endpoint(ThreadingHTTPServer):
    """Embeds a text ``text N`` as (N, 1), in base64; refuses as many requests as ``busy`` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.busy = 0
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            refused = self.server.busy > 0
            self.server.busy -= refused
        vectors = [np.array([int(text.split()[1]), 1], dtype="<f4") for text in body["input"]]
        data = [
            {"index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
            for index, vector in enumerate(vectors)
        ]
        said = json.dumps({"model": body["model"], "data": data}).encode()
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as server:
        yield server


def _expected() -> np.ndarray:
    drawn = np.array([[number, 1] for number in range(len(TEXTS))], dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_batches_of_passages_come_back_in_order_although_the_server_is_busy(endpoint: Endpoint) -> None:
    endpoint.busy = 3
    encoder = ServedEncoder(endpoint.url, "m", 2, "id")
    np.testing.assert_allclose(encoder.embed(TEXTS, "passage"), _expected(), rtol=1e-6)
    encoder.close()
    assert len(endpoint.bodies) == 6 + 3
    assert {(body["input_type"], body["encoding_format"]) for body in endpoint.bodies} == {
        ("passage", "base64")
    }
    assert max(len(body["input"]) for body in endpoint.bodies) == BATCH


def test_nothing_is_kept_of_a_block_during_which_the_server_was_replaced(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    proofs = 0

    def prove() -> None:
        nonlocal proofs
        proofs += 1
        if proofs == 2:
            raise DeployError("another model answers")

    cache = EmbeddingCache(tmp_path)
    encoder = CachedEncoder(ServedEncoder(endpoint.url, "m", 2, "id", prove=prove), cache)
    with pytest.raises(DeployError, match="another model answers"):
        encoder.embed(TEXTS, "passage")
    assert cache.get(encoder.identity("passage"), [digest_text(text) for text in TEXTS]) == {}
    np.testing.assert_allclose(encoder.embed(TEXTS, "passage"), _expected(), rtol=1e-6)
    assert len(cache.get(encoder.identity("passage"), [digest_text(text) for text in TEXTS])) == len(TEXTS)
