"""The request bodies of embedding services, one for each dialect, and one reader for all answers.

Sources: NVIDIA NIM multimodal embedding API and nv-ingest (``text_image`` as text, space, data URI); vLLM pooling
models (``messages`` with ``add_generation_prompt``); Infinity (``modality``); Jina and SGLang (``{"text"}`` and
``{"image"}`` items); Voyage (``inputs`` with ``content``); DeepInfra (lists of parts); llama.cpp (``content`` of
parts); color-perception-bench (``/txt/embed`` and ``/img/embed``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from resources.encoders.base import Role
from resources.encoders.items import Item, data_uri
from resources.encoders.service_calls import AnswerError
from resources.models.entry import Dialect, Endpoint, ModelEntry

INSTRUCTION = "Represent the user's input."


class _Row(BaseModel):
    """An item of ``data``."""

    index: int = 0
    embedding: list[float] | None = None


_ROWS = TypeAdapter(list[_Row])
_VECTORS = TypeAdapter(list[list[float]])


@dataclass(frozen=True)
class Call:
    """One request: path, body, and the rows of the items that it embeds."""

    path: str
    body: dict[str, Any]
    rows: list[int]


@dataclass(frozen=True)
class Service:
    """What the bodies of one service are made from; ``model`` is the service's name of the model."""

    entry: ModelEntry
    model: str

    def endpoint(self, item: Item) -> Endpoint:
        own = self.entry.image_endpoint if item.images else self.entry.text_endpoint
        return own or Endpoint(path="/embeddings", output_field="data[0].embedding")

    def prompted(self, item: Item, role: Role) -> str:
        """The text behind its prefix, for a service without roles of its own."""
        return self.entry.prompts.prefix(role, item.instruction) + (item.text or "")


def plan_calls(service: Service, items: Sequence[Item], role: Role) -> Iterator[Call]:
    """The requests for ``items``: batches of one modality, as large as the entry allows."""
    size = 1 if service.entry.dialect == "vllm" else service.entry.user_batch_size
    body = BODIES[service.entry.dialect or "openai"]
    for _, group in groupby(
        sorted(range(len(items)), key=lambda row: _kind(items[row])), lambda row: _kind(items[row])
    ):
        rows = list(group)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            chosen = [items[row] for row in batch]
            yield Call(service.endpoint(chosen[0]).path, body(service, chosen, role), batch)


def read_vectors(answer: Any, count: int) -> list[list[float]]:
    """The vectors of an answer in the order asked: ``data`` items by ``index``, ``embeddings``, or ``embedding``.

    Raises:
        AnswerError: there are none, not ``count``, or something else where they should be.
    """
    try:
        found = _find_vectors(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise AnswerError(f"the answer's vectors cannot be read ({where}: {first['msg']})") from None
    if found is None:
        raise AnswerError("the answer has none of data[].embedding, embeddings, embedding")
    if len(found) != count:
        raise AnswerError(f"the answer has {len(found)} vectors for {count} inputs")
    return found


def _kind(item: Item) -> str:
    return item.modality


def _find_vectors(answer: Any) -> list[list[float]] | None:
    if not isinstance(answer, dict):
        return None
    fields = cast("dict[str, Any]", answer)
    data: Any = fields.get("data")
    if isinstance(data, list) and data and isinstance(data[0], dict):
        ordered = sorted(_ROWS.validate_python(data), key=lambda row: row.index)
        return [row.embedding for row in ordered if row.embedding is not None]
    for name in ("embedding", "embeddings", "data"):
        value: Any = fields.get(name)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("float")
        if isinstance(value, list) and value:
            vectors = cast("list[Any]", value)
            return _VECTORS.validate_python(vectors if isinstance(vectors[0], list) else [vectors])
    return None


def _local(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    field = service.endpoint(items[0]).input_field
    values = [data_uri(item.images[0]) if item.images else item.text or "" for item in items]
    return {field: values if service.entry.user_batch_size > 1 else values[0]}


def _openai(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    endpoint = service.endpoint(items[0])
    values: list[Any] = [
        data_uri(item.images[0]) if item.images else service.prompted(item, role) for item in items
    ]
    if endpoint.wrap_input:
        key = endpoint.input_wrapper_key or ("image" if items[0].images else "text")
        values = [{key: value} for value in values]
    return {endpoint.input_field: values, **_named(service, endpoint)}


def _nim(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    # NIM takes an image as a passage only.
    kind = "passage" if items[0].images else role
    texts = [
        " ".join(part for part in [item.text or "", *map(data_uri, item.images)] if part) for item in items
    ]
    return {
        "input": texts,
        "modality": [item.modality for item in items],
        "input_type": kind,
        "encoding_format": "float",
        "truncate": "END",
        **_named(service),
    }


def _vllm(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    item = items[0]
    system = item.instruction or service.entry.prompts.prefix(role) or INSTRUCTION
    messages = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": _parts(item, item.text or "")},
    ]
    # The vector is the state at the opened assistant message; without it the vector differs.
    return {
        "messages": messages,
        "add_generation_prompt": True,
        "continue_final_message": False,
        "encoding_format": "float",
        **_named(service),
    }


def _infinity(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    values = [data_uri(item.images[0]) if item.images else service.prompted(item, role) for item in items]
    return {"input": values, "modality": items[0].modality, **_named(service)}


def _jina(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    values = [
        {"image": data_uri(item.images[0])} if item.images else {"text": item.text or ""} for item in items
    ]
    return {"input": values, **_named(service)}


def _voyage(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    inputs = [
        {
            "content": [
                *([{"type": "text", "text": item.text}] if item.text else []),
                *({"type": "image_base64", "image_base64": data_uri(image)} for image in item.images),
            ]
        }
        for item in items
    ]
    return {"inputs": inputs, "input_type": "query" if role == "query" else "document", **_named(service)}


def _deepinfra(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    values = [
        _parts(item, item.text or "") if item.images else service.prompted(item, role) for item in items
    ]
    return {"input": values, **_named(service)}


def _llama_cpp(service: Service, items: Sequence[Item], role: Role) -> dict[str, Any]:
    return {
        "input": [{"content": _parts(item, service.prompted(item, role))} for item in items],
        **_named(service),
    }


def _parts(item: Item, text: str) -> list[dict[str, Any]]:
    """Content parts as in chat completions, images first."""
    images = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in item.images]
    return [*images, *([{"type": "text", "text": text}] if text or not images else [])]


def _named(service: Service, endpoint: Endpoint | None = None) -> dict[str, Any]:
    own = endpoint or service.entry.text_endpoint
    task = {"task": service.entry.task} if service.entry.task else {}
    return {"model": (own.model if own else None) or service.model, **task}


BODIES: dict[Dialect, Callable[[Service, Sequence[Item], Role], dict[str, Any]]] = {
    "local": _local,
    "openai": _openai,
    "nim": _nim,
    "vllm": _vllm,
    "infinity": _infinity,
    "jina": _jina,
    "voyage": _voyage,
    "deepinfra": _deepinfra,
    "llama_cpp": _llama_cpp,
}
