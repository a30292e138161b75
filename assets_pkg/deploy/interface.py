"""What is sent to a served model, and what is taken for an answer: NIM's way, and vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from resources.encoders.base import Role
from resources.encoders.service_calls import AnswerError


class Interface(Protocol):
    """One way to ask for embeddings."""

    @property
    def path(self) -> str: ...

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        """The request; texts without their prefix, which is the server's work."""
        ...

    def vectors(self, answer: dict[str, Any], model: str, count: int) -> list[Any]:
        """The vectors in the order of the texts, whatever they consist of.

        Raises:
            AnswerError: another model's, or not exactly one for each text.
        """
        ...


class NimInterface:
    """``POST /v1/embeddings`` with ``input_type``."""

    path = "/v1/embeddings"

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        how = {"input_type": role, "encoding_format": "base64", "truncate": "END"}
        return {"input": list(texts), "model": model, **how}

    def vectors(self, answer: dict[str, Any], model: str, count: int) -> list[Any]:
        if answer.get("model") != model:
            raise AnswerError(f"answered as {answer.get('model')!r}, asked for {model!r}")
        data = sorted(answer.get("data", []), key=lambda item: item["index"])
        if [item["index"] for item in data] != list(range(count)):
            raise AnswerError(f"answered {len(data)} embeddings for {count} texts")
        return [item["embedding"] for item in data]


class VllmInterface:
    """``POST /v2/embed``, where vLLM puts the checkpoint's own prompts before the texts."""

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
    """How the servers of a ``deploy.backend`` are asked."""
    return VllmInterface() if backend == "vllm" else NimInterface()
