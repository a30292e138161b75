"""JSON from the answers of a language model, with or without the endpoint's support."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_START = re.compile(r"[{\[]")
_MOST_STARTS = 500


@dataclass(frozen=True)
class Schema:
    """A JSON schema with its name for the endpoint."""

    name: str
    schema: dict[str, Any]

    @classmethod
    def of(cls, name: str, model: type[BaseModel]) -> Schema:
        """The schema of a pydantic model in the strict form: every property required, no others."""
        return cls(name, _strict(model.model_json_schema()))

    def response_format(self) -> dict[str, Any]:
        """As in platform.openai.com/docs/guides/structured-outputs."""
        return {
            "type": "json_schema",
            "json_schema": {"name": self.name, "schema": self.schema, "strict": True},
        }


class SchemaSupport:
    """Which models of an endpoint take a JSON schema, found out by asking.

    The prompt asks for the same JSON as text, so an answer without schema is an answer to the same question.
    """

    def __init__(self) -> None:
        self._works: set[str] = set()
        self._refused: set[str] = set()

    def best(self, model: str, schema: Schema | None) -> dict[str, Any]:
        """What to add to a request body: nothing where the model takes no schema."""
        if schema is None or model in self._refused:
            return {}
        return {"response_format": schema.response_format()}

    def may_drop(self, model: str, status: int | None) -> bool:
        """Whether the schema may be why the endpoint called a request bad."""
        return status in (400, 422) and model not in self._works

    def worked(self, model: str) -> None:
        """An answer came with a schema."""
        self._works.add(model)

    def worked_only_without(self, model: str) -> None:
        """An answer came, but only after the schema was left out."""
        self._refused.add(model)


def json_values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in an answer, the likeliest first.

    Tolerates reasoning before the JSON, code fences and prose around it; later values come first, since
    reasoning precedes the answer. Of JSON that was cut off, the parts that are whole are found. Lone
    surrogates, which no file can hold, become U+FFFD.
    """
    for candidate in _candidates(text):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            yield clean_surrogates(value) if "\\u" in candidate else value


def clean_surrogates(value: Any) -> Any:
    """The value with every lone surrogate in its strings replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [clean_surrogates(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        pairs = cast(dict[str, Any], value).items()
        return {clean_surrogates(key): clean_surrogates(item) for key, item in pairs}
    return value


def _candidates(text: str) -> Iterator[str]:
    if text.lstrip().startswith(("{", "[")):  # even if a string in it holds the mark that ends reasoning
        yield text
    _, ended, rest = text.partition("</think>")
    for part in (rest, text) if ended else (text,):
        yield from reversed(_FENCE.findall(part))
        yield from reversed(list(_embedded(part)))


def _embedded(text: str) -> Iterator[str]:
    """Stretches of the text that decode as JSON, outermost first in the text."""
    decoder, position = json.JSONDecoder(), 0
    for _ in range(_MOST_STARTS):
        start = _START.search(text, position)
        if start is None:
            return
        try:
            _, position = decoder.raw_decode(text, start.start())
            yield text[start.start() : position]
        except (ValueError, RecursionError):
            position = start.end()


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    node = cast(dict[str, Any], schema)
    strict = {key: _strict(value) for key, value in node.items() if key not in ("title", "default")}
    if "properties" in node:
        properties: dict[str, Any] = node["properties"]
        strict["properties"] = {key: _strict(value) for key, value in properties.items()}
        strict |= {"required": list(properties), "additionalProperties": False}
    return strict
