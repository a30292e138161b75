"""The chat model as the stages see it: ask, and get an answer or a reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from resources.chat_model.answer import Completion, TokenCounts
from resources.chat_model.budget import Budget, Usage
from resources.chat_model.cache import AnswerCache, answer_key
from resources.chat_model.config import ChatConfig
from resources.chat_model.consent import DOCUMENTS, Sent, check_consent
from resources.chat_model.errors import (
    BudgetReachedError,
    CallFailedError,
    ChatModelError,
    EndpointError,
    NoAnswerError,
)
from resources.chat_model.limits import AdaptiveGate, Pace
from resources.chat_model.retries import RequestFailure, delay_before
from resources.chat_model.structured import Schema, SchemaSupport
from resources.chat_model.transport import Transport
from resources.endpoints import endpoint_host, is_loopback

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 4
_EXHAUSTED_MEANS_DOWN = 2


class Message(TypedDict):
    """One message: ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatAnswer:
    """The model's answer. ``truncated``: it reached the token limit; ``refused``: it declined."""

    text: str
    truncated: bool
    refused: bool
    prompt_tokens: int
    completion_tokens: int


class ChatModel:
    """An endpoint and a key. Cheap to make and safe to print; the work is done in a :meth:`session`."""

    def __init__(self, config: ChatConfig, api_key: str | None = None, sent: Sent = DOCUMENTS):
        self.config = config
        self._sent = sent
        self._api_key = (api_key or "").strip() or None

    def __repr__(self) -> str:
        return f"ChatModel({self.config.base_url!r}, key {'set' if self._api_key else 'not set'})"

    def at(self, base_url: str, sent: Sent = DOCUMENTS, **parameters: Any) -> ChatModel:
        """The model at another endpoint, with the same key, consent, limits, budget and answer cache; ``parameters``
        replace fields of the :class:`ChatConfig`, ``sent`` says what is sent."""
        return ChatModel(replace(self.config, base_url=base_url, **parameters), self._api_key, sent)

    @asynccontextmanager
    async def session(self, documents: int) -> AsyncGenerator[ChatSession]:
        """A session that may send the text of ``documents`` documents; checked before anything is sent.

        Raises:
            ConsentError: text may not be sent to this endpoint.
            EndpointError: no key for an endpoint that is not on this machine, or one no header can hold.
        """
        config = self.config
        check_consent(
            config.base_url, config.allow_corpus_egress, config.approved_endpoints, documents, self._sent
        )
        self._check_key()
        cache = AnswerCache(config.cache)
        transport = Transport(config, self._api_key)
        session = ChatSession(config, transport, cache)
        try:
            yield session
        finally:
            await session.finish()
            await transport.close()
            cache.close()

    def _check_key(self) -> None:
        host, _ = endpoint_host(self.config.base_url)
        name = self.config.api_key_env
        if self._api_key is None and not is_loopback(host):
            raise EndpointError(f"{name} is not set: export {name}=..., the key for {host}")
        if self._api_key and not (self._api_key.isascii() and self._api_key.isprintable()):
            raise EndpointError(f"{name} holds characters that no key has: copy it again")

    def __reduce__(self) -> Any:
        raise TypeError("a ChatModel holds a key and is not pickled: make it where it is used")


class ChatSession:
    """Asks with retries, limits and cache. Once something fatal happened every later call raises it, while
    calls under way still finish and are kept."""

    def __init__(self, config: ChatConfig, transport: Transport, cache: AnswerCache):
        self._config = config
        self._transport = transport
        self._cache = cache
        self._gate = AdaptiveGate(config.max_parallel)
        self._pace = Pace(config.requests_per_minute, config.tokens_per_minute)
        self._budget = Budget(config)
        self._pending: dict[bytes, asyncio.Task[ChatAnswer]] = {}
        self._formats = SchemaSupport()
        self._exhausted = 0
        self._stopped: ChatModelError | None = None

    @property
    def usage(self) -> Usage:
        return self._budget.usage

    async def ask(self, model: str, messages: Sequence[Message], schema: Schema | None = None) -> ChatAnswer:
        """The model's answer; the kept one if this was ever asked before.

        Raises:
            CallFailedError: this call cannot be answered.
            ChatModelError: the run cannot go on.
        """
        config = self._config
        parameters = {"temperature": config.temperature, "max_tokens": config.max_output_tokens}
        key = answer_key(
            config.base_url,
            model,
            parameters,
            schema and schema.schema,
            [dict(message) for message in messages],
        )
        task = self._pending.get(key)
        if task is None:
            kept = self._cache.get(key) if config.reuse_answers else None
            if kept is not None:
                self.usage.reused += 1
                return ChatAnswer(**kept)
            body = {"model": model, "messages": list(messages), **parameters}
            task = asyncio.create_task(self._fetch(key, body, schema))
            self._pending[key] = task
            task.add_done_callback(lambda _: self._pending.pop(key, None))
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Cancel what is still under way (nothing is, unless the caller was interrupted)."""
        pending = list(self._pending.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _fetch(self, key: bytes, body: dict[str, Any], schema: Schema | None) -> ChatAnswer:
        loop = asyncio.get_running_loop()
        model, attempt, plain = body["model"], 0, False
        first_failure: float | None = None
        while True:
            reply = await self._try(key, body, None if plain else schema)
            if isinstance(reply, ChatAnswer):
                if plain:
                    self._formats.worked_only_without(model)
                self._exhausted = 0
                return reply
            if self._formats.may_drop(model, reply.status) and schema is not None and not plain:
                plain = True
                continue
            attempt += 1
            delay = delay_before(attempt, reply)
            first_failure = loop.time() if first_failure is None else first_failure
            spent = loop.time() + delay - first_failure
            self._give_up_on(reply, out_of_time=spent > self._config.retry_deadline_s)
            log.info("%s: %s; try %d in %.1f s", model, reply.detail, attempt + 1, delay)
            await asyncio.sleep(delay)

    async def _try(
        self, key: bytes, body: dict[str, Any], schema: Schema | None
    ) -> ChatAnswer | RequestFailure:
        """One request, once the limits allow it; its answer is in the cache before anything else happens."""
        prompt_tokens = sum(len(message["content"]) for message in body["messages"]) // CHARS_PER_TOKEN + 1
        worst = (prompt_tokens, body["max_tokens"])
        async with self._gate.slot():
            self._raise_if_stopped()
            await self._pace.wait(sum(worst))
            self._raise_if_stopped()
            reserved, used = await self._reserve(worst), None
            sent_at = asyncio.get_running_loop().time()
            try:
                form = self._formats.best(body["model"], schema)
                reply = await self._transport.send({**body, **form})
                if isinstance(reply, RequestFailure):
                    self._note(reply, sent_at)
                    return reply
                if form:
                    self._formats.worked(body["model"])
                answer = _read(reply, prompt_tokens)
                self._cache.put(key, asdict(answer))
                used = (answer.prompt_tokens, answer.completion_tokens)
            finally:
                await self._budget.settle(reserved, used)
            self._pace.settle(sum(worst), answer.prompt_tokens + answer.completion_tokens)
            self._pace.spread(asyncio.get_running_loop().time() - sent_at, self._gate.limit)
            self._gate.speed_up()
            return answer

    async def _reserve(self, worst: tuple[int, int]) -> tuple[int, int]:
        try:
            return await self._budget.reserve(*worst)
        except BudgetReachedError as error:
            self._stopped = self._stopped or error
            raise

    def _note(self, failure: RequestFailure, sent_at: float) -> None:
        if failure.full:
            self._gate.slow_down(sent_at)
            if failure.retry_after_s is not None:
                self._pace.pause(min(failure.retry_after_s, self._config.retry_deadline_s))

    def _give_up_on(self, failure: RequestFailure, *, out_of_time: bool) -> None:
        """Raise the error that ends this call or the run, if the failure is one."""
        self._raise_if_stopped()
        host, _ = endpoint_host(self._config.base_url)
        if failure.fatal:
            self._stop(EndpointError(f"{host}: {failure.detail}"))
        if not failure.again:
            raise CallFailedError("bad_request", failure.detail)
        if out_of_time:
            self._exhausted += 1
            waited = f"given up after {self._config.retry_deadline_s:g} s of tries (retry_deadline_s)"
            if failure.refused or self._exhausted >= _EXHAUSTED_MEANS_DOWN:
                self._stop(
                    NoAnswerError(
                        f"{host} does not answer ({failure.detail}), {waited}. Every answer so far is kept: "
                        "run the same command again when it is up"
                    )
                )
            raise CallFailedError("no_answer", f"{failure.detail}; {waited}")

    def _stop(self, error: ChatModelError) -> None:
        self._stopped = error
        raise error

    def _raise_if_stopped(self) -> None:
        if (
            self._stopped is not None
        ):  # a copy: one exception raised by many would gather all their tracebacks
            raise type(self._stopped)(*self._stopped.args)


def _read(reply: Completion, prompt_tokens: int) -> ChatAnswer:
    """The answer in a chat completion; an endpoint that counts no tokens gets them estimated."""
    choice, usage = reply.choices[0], reply.usage or TokenCounts()
    message = choice.message
    return ChatAnswer(
        text=message.text,
        truncated=choice.finish_reason == "length",
        refused=bool(message.refusal) or choice.finish_reason == "content_filter",
        prompt_tokens=usage.prompt_tokens or prompt_tokens,
        completion_tokens=usage.completion_tokens or len(message.text) // CHARS_PER_TOKEN,
    )
