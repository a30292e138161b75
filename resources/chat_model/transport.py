"""One request over the wire: the openai client over an HTTP client of the factory, its implicit behaviour off.

No hidden retries, no redirects, no proxy towards this machine, no headers from the environment; and the key never in
a message.
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
    import openai

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS, KEPT_OPEN = 1000, 100
ANSWER_LIMIT_BYTES = 16 * 2**20
SENT_HEADERS = frozenset(
    {
        "host",
        "connection",
        "accept",
        "accept-encoding",
        "user-agent",
        "content-type",
        "content-length",
        "authorization",
    }
)
"""The client adds others, some of them from ``OPENAI_*`` variables."""


class Transport:
    """Sends one request body and returns the answer, or the :class:`RequestFailure`."""

    def __init__(self, config: ChatConfig, api_key: str | None):
        self._config = config
        self._api_key = api_key
        self._client = _client(config, api_key)

    async def send(self, body: dict[str, Any]) -> Completion | RequestFailure:
        import httpx2
        import openai

        from resources.answer_limit import AnswerTooLargeError

        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                # The typed method walks the whole body twice; the plain one costs half the CPU per call.
                reply = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=body)
            return _decode(self._scrub(reply.content.decode("utf-8", "replace")))
        except openai.APIStatusError as error:
            text = self._scrub(error.response.text)
            return failure_of_status(
                error.status_code, text, error.response.headers, self._config.api_key_env
            )
        except (openai.APITimeoutError, TimeoutError):
            return RequestFailure(f"no answer within {self._config.request_timeout_s:g} s", again=True)
        except AnswerTooLargeError as error:
            return RequestFailure(str(error))
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            detail = self._scrub(f"{type(cause).__name__}: {cause}")
            return RequestFailure(detail, again=True, refused=isinstance(cause, httpx2.ConnectError))

    async def close(self) -> None:
        await self._client.close()

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


def _client(config: ChatConfig, api_key: str | None) -> openai.AsyncOpenAI:
    import httpx2
    import openai

    key = api_key or "none"  # some servers on this machine want the header, whatever it holds
    timeout = httpx2.Timeout(config.request_timeout_s, connect=CONNECT_TIMEOUT_S)
    http = async_http_client(
        config.base_url,
        timeout=timeout,
        limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=KEPT_OPEN),
        allow_egress=config.allow_corpus_egress,
        approved_endpoints=config.approved_endpoints,
        answer_limit=ANSWER_LIMIT_BYTES,
    )

    async def only_ours(request: httpx2.Request) -> None:
        for name in set(request.headers) - SENT_HEADERS:
            del request.headers[name]
        request.headers["authorization"] = f"Bearer {key}"

    http.event_hooks["request"].append(only_ours)
    return openai.AsyncOpenAI(
        base_url=config.base_url, api_key=key, max_retries=0, timeout=timeout, http_client=http
    )
