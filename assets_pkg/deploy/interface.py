"""Requests for embeddings and their answers, in NIM's format and in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError

from resources.encoders.base import Role
from resources.encoders.service_calls import AnswerError

Form = TypeVar("Form", bound=BaseModel)


class _NimEmbedding(BaseModel):
    index: int
    embedding: Any = None


class _NimAnswer(BaseModel):
    model: str | None = None
    data: list[_NimEmbedding] = []


class _VllmEmbeddings(BaseModel):
    rows: list[Any] = Field([], alias="float")


class _VllmAnswer(BaseModel):
    embeddings: _VllmEmbeddings


class Interface(Protocol):
    """An HTTP interface for embeddings."""

    @property
    def path(self) -> str: ...

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        """The request; the texts have no prefix, which the server adds."""
        ...

    def vectors(self, answer: Any, model: str, count: int) -> list[Any]:
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

    def vectors(self, answer: Any, model: str, count: int) -> list[Any]:
        found = _checked(_NimAnswer, answer)
        if found.model != model:
            raise AnswerError(f"answered as {found.model!r}, asked for {model!r}")
        data = sorted(found.data, key=lambda item: item.index)
        if [item.index for item in data] != list(range(count)):
            raise AnswerError(f"answered {len(data)} embeddings for {count} texts")
        return [item.embedding for item in data]


class VllmInterface:
    """``POST /v2/embed``, with which vLLM puts the checkpoint's own prompts before the texts."""

    path = "/v2/embed"

    def body(self, model: str, texts: Sequence[str], role: Role) -> dict[str, Any]:
        kind = "document" if role == "passage" else role
        return {"texts": list(texts), "model": model, "input_type": kind, "embedding_types": ["float"]}

    def vectors(self, answer: Any, model: str, count: int) -> list[Any]:
        rows = _checked(_VllmAnswer, answer).embeddings.rows
        if len(rows) != count:
            raise AnswerError(f"answered {len(rows)} embeddings for {count} texts")
        return rows


def _checked(form: type[Form], answer: Any) -> Form:
    try:
        return form.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise AnswerError(f"answered with something else than embeddings ({where}: {first['msg']})") from None


def interface_of(backend: str) -> Interface:
    """The interface of the servers of a ``deploy.backend``."""
    return VllmInterface() if backend == "vllm" else NimInterface()
