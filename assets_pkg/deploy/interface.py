"""Requests for embeddings and their answers, in NIM's format and in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from resources.encoders.base import Role
from resources.encoders.service_calls import AnswerError


class Interface(Protocol):
    """An HTTP interface for embeddings."""

    @property
    def path(self) -> str: ...

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        """The request; the texts have no prefix, which the server adds."""
        ...

    def vectors(self, answer: dict[str, Any], model: str, count: int) -> list[Any]:
        """The vectors in the order of the texts, unchecked.

        Raises:
            AnswerError: another model answered, or not with exactly one vector for each text.
        """
        ...


class NimInterface:
    """``POST /v1/embeddings`` with ``input_type``."""

    path = "/v1/embeddings"

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        options = {"input_type": role, "encoding_format": "base64", "truncate": "END"}
        return {"input": list(texts), "model": model, **options}

    def vectors(self, answer: dict[str, Any], model: str, count: int) -> list[Any]:
        if answer.get("model") != model:
            raise AnswerError(f"answered as {answer.get('model')!r}, asked for {model!r}")
        data = sorted(answer.get("data", []), key=lambda item: item["index"])
        if [item["index"] for item in data] != list(range(count)):
            raise AnswerError(f"answered {len(data)} embeddings for {count} texts")
        return [item["embedding"] for item in data]


class VllmInterface:
    """``POST /v2/embed``, with which vLLM puts the checkpoint's own prompts before the texts."""

    path = "/v2/embed"

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        kind = "document" if role == "passage" else role
        return {"texts": list(texts), "model": model, "input_type": kind, "embedding_types": ["float"]}

    def vectors(self, answer: dict[str, Any], model: str, count: int) -> list[Any]:
        rows = answer.get("embeddings", {}).get("float", [])
        if len(rows) != count:
            raise AnswerError(f"answered {len(rows)} embeddings for {count} texts")
        return rows


def interface_of(backend: str) -> Interface:
    """The interface of the servers of a ``deploy.backend``."""
    return VllmInterface() if backend == "vllm" else NimInterface()
