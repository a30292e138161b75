"""An OpenAI-compatible chat endpoint: asked within limits, budget and consent, and never twice for one thing."""

from resources.chat_model.budget import Usage
from resources.chat_model.client import ChatAnswer, ChatModel, ChatSession, Message
from resources.chat_model.config import ChatConfig
from resources.chat_model.errors import (
    BudgetReachedError,
    CallFailedError,
    ChatModelError,
    ConsentError,
    EndpointError,
)
from resources.chat_model.structured import Schema, clean_surrogates, json_values
from resources.endpoints import endpoint_host, is_allowed

__all__ = [
    "BudgetReachedError",
    "CallFailedError",
    "ChatAnswer",
    "ChatConfig",
    "ChatModel",
    "ChatModelError",
    "ChatSession",
    "ConsentError",
    "EndpointError",
    "Message",
    "Schema",
    "Usage",
    "clean_surrogates",
    "endpoint_host",
    "is_allowed",
    "json_values",
]
