"""The encoder that checks every answer, and the tolerances of the drift."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from assets_pkg.deploy.interface import VllmInterface
from assets_pkg.deploy.nim_eval import DriftError, measure_drift, require_no_drift
from assets_pkg.deploy.served_encoder import ServedEncoder
from assets_pkg.deploy.server_state import DeployError
from resources.encoders.service_calls import AnswerError
from tests.loopback import serving

Answer = Callable[[dict[str, Any]], Any]


@contextmanager
def endpoint(answer: Answer) -> Iterator[ServedEncoder]:
    """A server of two-dimensional vectors that answers with whatever ``answer`` makes of a request's body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server,
        closing(ServedEncoder(f"http://127.0.0.1:{server.server_port}", "m", 2, "id")) as encoder,
    ):
        yield encoder


def _answer(vectors: list[Any], model: str = "m") -> dict[str, Any]:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"model": model, "data": data[::-1]}


def _by_length(text: str) -> list[float]:
    return [float(len(text)), 0.0]


def test_vectors_come_in_order_and_at_length_one() -> None:
    texts = [str(10**power) for power in range(70)]
    with endpoint(lambda body: _answer([[len(text), 1.0] for text in body["input"]])) as encoder:
        vectors = encoder.embed(texts, "query")
    expected = np.array([[len(text), 1.0] for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "invalid",
    [["a", 1.0], [None, 1.0], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0], [1.0], None, [True, 1.0]],
)
def test_an_invalid_vector_is_asked_for_again_and_counted(invalid: Any) -> None:
    seen: list[list[str]] = []

    def answer(body: dict[str, Any]) -> Any:
        seen.append(body["input"])
        bad_turn = len(seen) <= 2
        return _answer(
            [invalid if text == "bad" and bad_turn else _by_length(text) for text in body["input"]]
        )

    with endpoint(answer) as encoder:
        vectors = encoder.embed(["good", "bad"], "passage")
        assert encoder.invalid == 2
    assert seen == [["good", "bad"], ["bad"], ["bad"]]
    np.testing.assert_array_equal(vectors, [[1, 0], [1, 0]])


def test_a_vector_that_stays_invalid_is_an_error() -> None:
    with endpoint(lambda body: _answer([None] * len(body["input"]))) as encoder:
        with pytest.raises(DeployError, match="4 times for one text"):
            encoder.embed(["x"], "query")
        assert encoder.invalid == 3


def test_another_model_or_other_indices_are_refused() -> None:
    with (
        endpoint(lambda body: _answer([[1.0, 0.0]], "other")) as encoder,
        pytest.raises(DeployError, match="answered as 'other'"),
    ):
        encoder.embed(["x"], "query")
    with (
        endpoint(lambda body: _answer([[1.0, 0.0]])) as encoder,
        pytest.raises(DeployError, match="1 embeddings for 2 texts"),
    ):
        encoder.embed(["x", "y"], "query")


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        "text",
        {"model": "m", "data": None},
        {"model": "m", "data": {"index": 0}},
        {"model": "m", "data": [None]},
        {"model": "m", "data": [{"embedding": [1.0, 0.0]}]},
        {"model": "m", "data": [{"index": None, "embedding": [1.0, 0.0]}]},
        {"model": ["m"], "data": []},
    ],
)
def test_an_answer_of_another_form_is_an_error_that_names_the_server(answer: Any) -> None:
    with (
        endpoint(lambda body: answer) as encoder,
        pytest.raises(
            DeployError, match=r"http://127\.0\.0\.1:\d+ answered with something else than embeddings"
        ),
    ):
        encoder.embed(["x"], "query")


@pytest.mark.parametrize(
    "answer", [[], {"embeddings": []}, {"embeddings": {"float": 5}}, {"embeddings": None}]
)
def test_an_answer_of_another_form_than_vllms_is_an_error(answer: Any) -> None:
    with pytest.raises(AnswerError, match="something else than embeddings"):
        VllmInterface().vectors(answer, "m", 1)
    assert VllmInterface().vectors({"embeddings": {"float": [[1.0]]}}, "m", 1) == [[1.0]]


def test_drift_is_judged_with_the_recipes_tolerances() -> None:
    checkpoint = {"NDCG@1": 0.5, "NDCG@5": 0.5, "NDCG@10": 0.5, "MRR@3": 0.5}
    served = {"NDCG@1": 0.53, "NDCG@5": 0.51, "NDCG@10": 0.489, "MRR@3": 0.4699}
    within = {row.metric: row.within for row in measure_drift(checkpoint, served)}
    assert within == {"NDCG@1": True, "NDCG@5": True, "NDCG@10": False, "MRR@3": False}
    with pytest.raises(DriftError, match=r"NDCG@10 -0\.0110 \(tolerance 0\.01\), MRR@3 -0\.0301"):
        require_no_drift(measure_drift(checkpoint, served))
    require_no_drift(measure_drift(checkpoint, checkpoint))
