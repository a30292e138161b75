"""A chat completion as far as Retune reads it, checked at the edge: nothing behind it meets another type."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

MOST_TOKENS = 100_000_000
"""A count above is no count: no request holds so many."""


def _or_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """What is of no use counts as not given, because the answer is good without it."""
    try:
        return None if isinstance(value, bool) else validate(value)
    except ValidationError:
        return None


Count = Annotated[Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None, WrapValidator(_or_none)]


class TokenCounts(BaseModel):
    """``usage``: how many tokens the endpoint counted; None where it gives no number that could be one."""

    prompt_tokens: Count = None
    completion_tokens: Count = None


class Part(BaseModel):
    """A part of a content that is a list; parts without text (an image) have None."""

    text: str | None = None


class Reply(BaseModel):
    content: str | list[Part] | None = None
    refusal: Any = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content or [])


class Choice(BaseModel):
    message: Reply
    finish_reason: Any = None


class Completion(BaseModel):
    """The answer to ``POST /chat/completions``; fields that are not read may hold anything."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: Annotated[TokenCounts | None, WrapValidator(_or_none)] = None
