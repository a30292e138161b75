"""One request over the wire, by a client of the factory: no hidden retries, no redirects, no proxy towards this
machine, no headers from the environment; and the key never in a message.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from resources.chat_model.answer import Completion
from resources.chat_model.config import ChatConfig
from resources.chat_model.retries import RequestFailure, failure_of_status
from resources.chat_model.structured import clean_surrogates
from resources.http_client import async_http_client

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS, KEPT_OPEN = 1000, 100


class Transport:
    """Sends one request body and returns the answer, or the :class:`RequestFailure`."""

    def __init__(self, config: ChatConfig, api_key: str | None):
        self._config = config
        self._api_key = api_key
        self._client = _client(config)

    async def send(self, body: dict[str, Any]) -> Completion | RequestFailure:
        import httpx2

        # Some servers on this machine want the header, whatever it holds.
        headers = {"Authorization": f"Bearer {self._api_key or 'none'}"}
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                reply = await self._client.post("chat/completions", json=body, headers=headers)
        except (httpx2.TimeoutException, TimeoutError):
            return RequestFailure(f"no answer within {self._config.request_timeout_s:g} s", again=True)
        except httpx2.RequestError as error:
            detail = self._scrub(f"{type(error).__name__}: {error}")
            return RequestFailure(detail, again=True, refused=isinstance(error, httpx2.ConnectError))
        text = self._scrub(reply.content.decode("utf-8", "replace"))
        if not reply.is_success:
            return failure_of_status(reply.status_code, text, reply.headers, self._config.api_key_env)
        return _decode(text)

    async def close(self) -> None:
        await self._client.aclose()

    def _scrub(self, text: str) -> str:
        return text.replace(self._api_key, "[key]") if self._api_key else text


def _decode(text: str) -> Completion | RequestFailure:
    try:
        answer = Completion.model_validate(json.loads(text))
    except (ValueError, RecursionError):
        return RequestFailure("the answer is not a chat completion", again=True)
    message = answer.choices[0].message
    message.content = clean_surrogates(message.text)
    return answer


def _client(config: ChatConfig) -> httpx2.AsyncClient:
    import httpx2

    return async_http_client(
        config.base_url,
        timeout=httpx2.Timeout(config.request_timeout_s, connect=CONNECT_TIMEOUT_S),
        limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=KEPT_OPEN),
        allow_egress=config.allow_corpus_egress,
        approved_endpoints=config.approved_endpoints,
    )
