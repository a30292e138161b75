"""Requests to embedding services: what is retried, how long, and what counts as a vector."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from resources.encoders.service_calls import RetryPolicy, as_vector, post

TRIES = RetryPolicy(frozenset({429, 503}), 0.5, 8.0, tries=5, network_errors=True, honour_retry_after=True)
PATIENCE = RetryPolicy(frozenset({503}), 0.2, 5.0, patience_s=120.0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time, but the clock shows it."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(waited))
    return waited


def service(*replies: httpx2.Response | Exception) -> tuple[httpx2.Client, list[Any]]:
    """A client of a service that gives these answers in turn, the last one for ever."""
    sent: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        reply = replies[min(len(sent), len(replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return httpx2.Client(transport=httpx2.MockTransport(answer)), sent


def status(code: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(code, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_waits_double_and_are_at_least_what_the_service_asks_for(waits: list[float]) -> None:
    client, sent = service(
        status(429), status(503, retry_after="7"), status(503, retry_after="70"), status(200)
    )
    assert post(client, "http://x/", {}, TRIES).status_code == 200
    assert waits == [0.5, 7.0, 8.0]
    assert len(sent) == 4


def test_the_last_answer_is_given_when_all_tries_failed(waits: list[float]) -> None:
    client, sent = service(status(503))
    assert post(client, "http://x/", {}, TRIES).status_code == 503
    assert len(sent) == 5
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_refusal_is_not_repeated(waits: list[float]) -> None:
    client, sent = service(status(404))
    assert post(client, "http://x/", {}, TRIES).status_code == 404
    assert (len(sent), waits) == (1, [])


def test_a_busy_server_is_asked_again_until_patience_ends(waits: list[float]) -> None:
    client, _ = service(status(503, retry_after="60"))
    assert post(client, "http://x/", {}, PATIENCE).status_code == 503
    assert waits[:6] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert 115 < sum(waits) <= 120


@pytest.mark.parametrize(("policy", "requests"), [(TRIES, 5), (PATIENCE, 1)])
def test_no_answer_is_retried_only_where_the_policy_says_so(
    policy: RetryPolicy, requests: int, waits: list[float]
) -> None:
    client, sent = service(httpx2.ConnectError("refused"))
    with pytest.raises(httpx2.ConnectError, match="refused"):
        post(client, "http://x/", {}, policy)
    assert len(sent) == requests


def encoded(values: list[float]) -> str:
    return base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()


@pytest.mark.parametrize("row", [[3, 4.0], encoded([3, 4])])
def test_numbers_and_base64_are_vectors(row: Any) -> None:
    found = as_vector(row, 2)
    assert found is not None
    assert (found.tolist(), found.dtype) == ([3, 4], np.float32)


@pytest.mark.parametrize(
    "row",
    [
        [1],
        [0, 0],
        [1, float("nan")],
        [1, "2"],
        [True, 1],
        "@@",
        encoded([1]),
        encoded([1, np.inf]),
        None,
        {},
        [1, 10**400],
    ],
)
def test_what_is_no_vector(row: Any) -> None:
    assert as_vector(row, 2) is None
