"""One request over the wire: through the openai client, with its implicit behaviour switched off.

No hidden retries, no redirects (they could lead to a host that is not approved), no proxy towards this
machine, no account headers from the environment; and the key never in a message.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from resources.chat_model.config import ChatConfig
from resources.chat_model.consent import endpoint_host, is_loopback
from resources.chat_model.retries import RequestFailure, failure_of_status
from resources.chat_model.structured import clean_surrogates

if TYPE_CHECKING:
    import openai

CONNECT_TIMEOUT_S = 10.0


class Transport:
    """Sends one request body and returns the decoded answer, or the :class:`RequestFailure`."""

    def __init__(self, config: ChatConfig, api_key: str | None):
        self._config = config
        self._api_key = api_key
        self._client = _client(config, api_key)

    async def send(self, body: dict[str, Any]) -> dict[str, Any] | RequestFailure:
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                # The typed method walks the whole body twice; the plain one costs half the CPU per call.
                reply = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=body)
            return self._decode(reply.content)
        except openai.APIStatusError as error:
            text = self._scrub(error.response.text)
            return failure_of_status(
                error.status_code, text, error.response.headers, self._config.api_key_env
            )
        except (openai.APITimeoutError, TimeoutError):
            return RequestFailure(f"no answer within {self._config.request_timeout_s:g} s", again=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            detail = self._scrub(f"{type(cause).__name__}: {cause}")
            return RequestFailure(detail, again=True, refused="ConnectError" in detail)

    async def close(self) -> None:
        await self._client.close()

    def _decode(self, content: bytes) -> dict[str, Any] | RequestFailure:
        try:
            answer = json.loads(self._scrub(content.decode("utf-8", "replace")))
            message = answer["choices"][0]["message"]
            message["content"] = clean_surrogates(message.get("content"))
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return RequestFailure("the answer is not a chat completion", again=True)
        return answer

    def _scrub(self, text: str) -> str:
        return text.replace(self._api_key, "[key]") if self._api_key else text


def _client(config: ChatConfig, api_key: str | None) -> openai.AsyncOpenAI:
    import openai

    host, _ = endpoint_host(config.base_url)
    timeout = openai.Timeout(config.request_timeout_s, connect=CONNECT_TIMEOUT_S)
    http = openai.DefaultAsyncHttpxClient(
        follow_redirects=False,
        trust_env=not is_loopback(host),
        timeout=timeout,
        limits=openai.DEFAULT_CONNECTION_LIMITS,
    )
    nothing = openai.Omit()
    return openai.AsyncOpenAI(
        base_url=config.base_url,
        api_key=api_key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=http,
        default_headers={"OpenAI-Organization": nothing, "OpenAI-Project": nothing},  # type: ignore[dict-item]
    )
