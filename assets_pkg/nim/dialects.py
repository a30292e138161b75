"""The bodies of other servers' clients, each converted to the one request that this server knows, and its answer back.

Text Embeddings Inference (https://huggingface.github.io/text-embeddings-inference): ``/embed``, and ``/`` as
``huggingface_hub`` asks; Infinity and other servers with OpenAI's body at ``/embeddings``; Cohere's ``/v2/embed``
(https://docs.cohere.com/reference/embed).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from assets_pkg.nim.errors import ApiError
from assets_pkg.nim.model import Vectors
from assets_pkg.nim.schemas import (
    Body,
    EmbeddingBody,
    EmbeddingList,
    EmbeddingRequest,
    Kind,
    as_kind,
    embeddings_body,
    validate_body,
)

Texts = str | Annotated[list[str], Field(fail_fast=True)]


class TeiBody(Body):
    """The body of POST /embed. Fields not listed are ignored."""

    inputs: Annotated[Texts, Field(description="One text, or a list of texts.")]
    prompt_name: Annotated[
        Literal["query", "passage", "document"] | None,
        Field(description="What the texts are. Default: passage."),
    ] = None
    truncate: Annotated[
        bool | None, Field(description="Whether a text that is too long is cut, the default, or refused.")
    ] = None
    truncation_direction: Annotated[
        Literal["left", "right", "Left", "Right"] | None,
        Field(description="The end that is cut. Default: right."),
    ] = None
    normalize: Annotated[bool | None, Field(description="Vectors have length 1; false is refused.")] = None
    dimensions: Annotated[int | None, Field(gt=0)] = None


class CohereBody(Body):
    """The body of POST /v2/embed. Fields not listed are ignored."""

    texts: Annotated[list[str], Field(fail_fast=True)]
    model: str | None = None
    input_type: Annotated[
        Literal["search_query", "search_document", "classification", "clustering", "query", "document"]
        | None,
        Field(description="search_query and query are queries, all others passages."),
    ] = None
    embedding_types: Annotated[list[Kind] | None, Field(description="Default: float.")] = None
    truncate: Literal["NONE", "END", "START"] | None = "END"
    output_dimension: Annotated[int | None, Field(gt=0)] = None


Write = Callable[[EmbeddingRequest, Vectors, int], Awaitable[bytes]]


@dataclass(frozen=True)
class Dialect:
    """``document``: the fields of `EmbeddingBody` for a checked body; ``write``: makes the answer's JSON."""

    body: type[Body]
    document: Callable[[Any], dict[str, Any]]
    write: Callable[[Any], Write]
    example: dict[str, Any]
    answer: Any
    """The answer's type, for OpenAPI."""

    def read(self, document: object) -> tuple[dict[str, Any], Write]:
        """Raises `ApiError`: the body has another shape, or asks for what is not served."""
        body = validate_body(self.body, document)
        return self.document(body), self.write(body)


def _from_tei(body: TeiBody) -> dict[str, Any]:
    if body.normalize is False:
        raise ApiError("normalize=false is not served: vectors have length 1", param="normalize")
    cut = "START" if (body.truncation_direction or "").lower() == "left" else "END"
    return {
        "input": body.inputs,
        "input_type": "query" if body.prompt_name == "query" else "passage",
        "truncate": "NONE" if body.truncate is False else cut,
        "dimensions": body.dimensions,
    }


async def _tei_answer(request: EmbeddingRequest, vectors: Vectors, tokens: int) -> bytes:
    return orjson.dumps(as_kind(vectors, "float"), option=orjson.OPT_SERIALIZE_NUMPY)


def _from_cohere(body: CohereBody) -> dict[str, Any]:
    query = body.input_type in ("search_query", "query")
    return {
        "input": body.texts,
        "model": body.model,
        "input_type": "query" if query else "passage",
        "truncate": body.truncate,
        "dimensions": body.output_dimension,
    }


def _cohere_writer(body: CohereBody) -> Write:
    kinds: Sequence[Kind] = body.embedding_types or ("float",)

    async def write(request: EmbeddingRequest, vectors: Vectors, tokens: int) -> bytes:
        answer = {
            "id": uuid.uuid4().hex,
            "embeddings": {kind: as_kind(vectors, kind) for kind in dict.fromkeys(kinds)},
            "texts": body.texts,
            "response_type": "embeddings_by_type",
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
        }
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    return write


_EXAMPLE = "What is a retriever?"
_TEI = Dialect(TeiBody, _from_tei, lambda _: _tei_answer, {"inputs": _EXAMPLE}, list[list[float]])
_OPENAI = Dialect(
    EmbeddingBody,
    lambda body: body.model_dump(exclude_unset=True),
    lambda _: embeddings_body,
    {"input": _EXAMPLE},
    EmbeddingList,
)
_COHERE = Dialect(
    CohereBody,
    _from_cohere,
    _cohere_writer,
    {"texts": [_EXAMPLE], "input_type": "search_query"},
    dict[str, Any],
)

DIALECTS: dict[str, Dialect] = {"/embed": _TEI, "/": _TEI, "/embeddings": _OPENAI, "/v2/embed": _COHERE}
"""By path."""
