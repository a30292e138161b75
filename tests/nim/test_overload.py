"""More work than the server can do: refusals that say when to come back, and nothing lost or left over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

pytestmark = pytest.mark.slow

SLOW = ["a text of some length that takes the model a while to embed " * 16] * 30


def test_a_full_queue_says_503_and_when_to_retry(start: Any) -> None:
    with start(RETUNE_MAX_QUEUE_TOKENS="2000", NIM_MAX_CLIENT_BATCH_SIZE="64") as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.embed(input=SLOW), range(12)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["object"] == "error"
        assert server.embed(input="accepted again").status_code == 200


def test_a_full_house_says_503(start: Any) -> None:
    with start(NIM_SERVER_MAX_QUEUE_SIZE="2") as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.embed(input=SLOW[:15]), range(8)))
        assert {answer.status_code for answer in answers} == {200, 503}


def test_a_request_past_its_time_says_503(start: Any) -> None:
    with start(NIM_SERVER_REQUEST_TIMEOUT_S="1", NIM_MAX_CLIENT_BATCH_SIZE="1000") as server:
        assert server.embed(input=SLOW * 30).status_code == 503
        assert _queue_empties(server)
        assert server.embed(input="short").status_code == 200


def test_the_openai_client_gets_through_by_its_own_retries(start: Any) -> None:
    with start(NIM_SERVER_MAX_QUEUE_SIZE="1") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=20)
        with ThreadPoolExecutor(3) as pool:
            answers = pool.map(
                lambda _: client.embeddings.create(model="retune/minilm", input=SLOW[:4]), range(6)
            )
            assert all(len(answer.data) == 4 for answer in answers)


def test_texts_of_clients_that_left_are_not_embedded(start: Any) -> None:
    with start("--workers", "1") as server:
        before = server.metric("retune_texts_total")

        def leave(_: int) -> bool:
            try:
                httpx2.post(f"{server.url}/v1/embeddings", json={"input": SLOW}, timeout=0.2)
            except httpx2.ReadTimeout:
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(leave, range(8)))
        assert _queue_empties(server)
        assert server.metric("retune_requests_abandoned_total") == 8
        assert server.metric("retune_texts_total") - before < 8 * len(SLOW) / 2
        assert server.embed(input="still here").status_code == 200


def _queue_empties(server: Any) -> bool:
    while server.metric("retune_queued_requests") or server.metric("retune_queued_tokens"):
        pass
    return True
