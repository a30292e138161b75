"""The chat model as a resource: the key comes from the environment and is shown nowhere."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import dagster as dg

from resources.chat_model.client import ChatModel
from resources.chat_model.config import ChatConfig


class ChatModelResource(dg.ConfigurableResource[ChatModel]):
    """Injected into the step that generates questions. Field by field the :class:`ChatConfig`, and the key:
    always a ``dg.EnvVar``, so that only its name is in any configuration."""

    api_key: str = ""
    base_url: str
    cache: str
    api_key_env: str
    temperature: float
    max_output_tokens: int
    max_parallel: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    request_timeout_s: float
    retry_deadline_s: float
    allow_corpus_egress: bool
    approved_endpoints: list[str]
    max_calls: int | None
    max_tokens: int | None
    max_cost: float | None
    input_price: float | None
    output_price: float | None
    reuse_answers: bool

    @classmethod
    def from_config(cls, config: ChatConfig) -> ChatModelResource:
        """The resource of one endpoint. Where the key's variable is not set there is no key: loopback endpoints
        need none, and others say so when they are first used."""
        values: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(config)}
        values |= {"cache": str(config.cache), "approved_endpoints": list(config.approved_endpoints)}
        key = dg.EnvVar(config.api_key_env) if os.environ.get(config.api_key_env) else ""
        return cls(api_key=key, **values)

    def get(self) -> ChatModel:
        """The plain object that stages are handed."""
        values = {field.name: getattr(self, field.name) for field in fields(ChatConfig)}
        values |= {"cache": Path(self.cache), "approved_endpoints": tuple(self.approved_endpoints)}
        return ChatModel(ChatConfig(**values), self.api_key)

    def __repr__(self) -> str:
        return f"ChatModelResource({self.base_url!r})"

    __str__ = __repr__
