"""The bodies of requests and answers: checked when read, written straight from the array of vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets_pkg.nim.errors import ApiError, UnknownModelError, UnprocessableError
from assets_pkg.nim.manifest import ServedModelManifest
from assets_pkg.nim.model import Vectors
from assets_pkg.nim.settings import ServerSettings
from assets_pkg.nim.tokenize import Role, Truncate

TWO_NAMES = ("nvidia/llama-3.2-nv-embedqa-1b-v2", "nvidia/llama-nemotron-embed-1b-v2")
"""One model that NVIDIA renamed: whichever a server is given, clients ask for either."""

ROLE_SUFFIXES: dict[str, Role] = {"-query": "query", "-passage": "passage"}

MISSING_INPUT_TYPE = "The model expects an input_type from one of `passage` or `query` but none was provided."


class EmbeddingBody(BaseModel):
    """The body of POST /v1/embeddings. Fields not listed are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    # Without fail_fast, a body of millions of wrong items would get millions of errors made for it.
    input: Annotated[
        str | Annotated[list[str], Field(fail_fast=True)], Field(description="One text, or a list of texts.")
    ]
    model: Annotated[
        str | None,
        Field(description="The served name. `-query` or `-passage` behind it stands in for `input_type`."),
    ] = None
    input_type: Annotated[
        Literal["query", "passage"] | None, Field(description="What the texts are. Default: passage.")
    ] = None
    truncate: Annotated[
        Literal["NONE", "END", "START"] | None,
        Field(description="Which end of a text that is too long is cut. NONE, the default, is an error."),
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Field(description="Vectors as numbers, the default, or as base64 of little-endian float32."),
    ] = None
    dimensions: Annotated[
        int | None, Field(gt=0, description="Keep so many leading dimensions, scaled to length 1 again.")
    ] = None
    embedding_type: Annotated[Literal["float"] | None, Field(description="Only float is served.")] = None
    modality: Annotated[
        Literal["text"] | Annotated[list[Literal["text"]], Field(fail_fast=True)] | None,
        Field(description="Only text is served."),
    ] = None
    user: Annotated[str | None, Field(description="Accepted and not used.")] = None


@dataclass(frozen=True)
class EmbeddingRequest:
    """What a client asked for, defaults filled in; ``model`` is the name it used."""

    texts: Sequence[str]
    role: Role
    model: str
    truncate: Truncate
    dimensions: int
    base64: bool


class RequestParser:
    """The rules of one served model: its names, its dimensions, its limits."""

    def __init__(self, manifest: ServedModelManifest, settings: ServerSettings) -> None:
        self._manifest = manifest
        self._settings = settings
        self.names = served_names(manifest, settings)

    def parse(self, body: bytes) -> EmbeddingRequest:
        """Raises `ApiError`: not JSON (400), and what `check` raises."""
        # Unlike the standard library's parser, this one refuses lone surrogates, NaN, numbers too large for a
        # float, broken UTF-8 and endless nesting, each of which would fail further in as an internal error.
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError("the body is not valid JSON") from error
        return self.check(document)

    def check(self, document: object) -> EmbeddingRequest:
        """Raises `ApiError`: wrong shape (422), unknown model (404), over a limit (400)."""
        given = _shaped(document)
        texts = [given.input] if isinstance(given.input, str) else given.input
        self._check_texts(texts)
        if isinstance(given.modality, list) and len(given.modality) not in (1, len(texts)):
            raise ApiError("modality must be one value, or one for each input")
        model, suffix_role = self._model(given.model)
        return EmbeddingRequest(
            texts=texts,
            role=self._role(suffix_role or given.input_type),
            model=model,
            truncate=given.truncate or "NONE",
            dimensions=self._dimensions(given.dimensions),
            base64=given.encoding_format == "base64",
        )

    def _check_texts(self, texts: list[str]) -> None:
        limit = self._settings.client_batch_limit
        if not texts:
            raise ApiError("input is empty")
        if len(texts) > limit:
            raise ApiError(f"Batch size {len(texts)} exceeds limit {limit}")
        for index, text in enumerate(texts):
            if not text or text.isspace():
                raise ApiError(f"input[{index}] is empty")

    def _model(self, name: str | None) -> tuple[str, Role | None]:
        """The name to answer with, and the role its suffix gives."""
        if name is None:
            return self.names[0], None
        if name in self.names:
            return name, None
        for suffix, role in ROLE_SUFFIXES.items():
            # Some clients fix input_type and leave only the name to choose by, so a suffix outweighs it.
            if name.endswith(suffix) and name.removesuffix(suffix) in self.names:
                return name, role
        raise UnknownModelError(f"Unsupported model, expected '{self.names[0]}'")

    def _role(self, role: Role | None) -> Role:
        if role is None and self._settings.require_input_type:
            raise ApiError(MISSING_INPUT_TYPE)
        return role or "passage"

    def _dimensions(self, wanted: int | None) -> int:
        full, allowed = self._manifest.dimensions, self._manifest.matryoshka_dims
        if wanted is None or wanted == full:
            return full
        if wanted > full:
            raise ApiError(f"dimensions {wanted} exceeds embedding size {full}")
        if allowed and wanted not in allowed:
            choices = ", ".join(str(dim) for dim in sorted({*allowed, full}))
            raise ApiError(f"dimensions {wanted} is not one of {choices}")
        return wanted


def served_names(manifest: ServedModelManifest, settings: ServerSettings) -> list[str]:
    """Every name the server answers to, its own first."""
    names = [*settings.served_names, manifest.model_id]
    if any(name in TWO_NAMES for name in names):
        names.extend(TWO_NAMES)
    return list(dict.fromkeys(names))


def _shaped(document: object) -> EmbeddingBody:
    if not isinstance(document, dict):
        raise UnprocessableError("the body must be a JSON object")
    try:
        return EmbeddingBody.model_validate(document)
    except ValidationError as error:
        raise UnprocessableError(_first_fault(error)) from error


def _first_fault(error: ValidationError) -> str:
    """Where and what, without the value: ``input.3: Input should be a valid string``.

    Every branch of a union reports a fault; the deepest is of the branch that the client meant.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    fault = max(faults, key=lambda each: len(each["loc"]))
    place = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
    return f"{place}: {fault['msg']}"


def _is_branch(part: int | str) -> bool:
    """Whether a part of an error's place names a branch of a union instead of a key of the body."""
    return isinstance(part, str) and (part == "str" or "[" in part)


NUMBERS_AT_ONCE = 65536
"""So many numbers are written before other requests get their turn on the event loop (about 1 ms)."""


class Embedding(BaseModel):
    """One vector; a string is base64 of little-endian float32."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read, with prefixes and special tokens, after any cutting."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The answer to POST /v1/embeddings. Describes it for OpenAPI; answers are not built through it."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: Usage


async def embeddings_body(request: EmbeddingRequest, vectors: Vectors, tokens: int) -> bytes:
    """The JSON of an `EmbeddingList`. Numbers have the fewest digits that give the same float32 back."""
    parts: list[bytes] = []
    for part in _parts(vectors, request.base64):
        if parts:
            await asyncio.sleep(0)
        parts.append(part)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = orjson.dumps({"model": request.model, "usage": usage})
    return b'{"object":"list","data":[' + b",".join(parts) + b"]," + rest[1:]


def _parts(vectors: Vectors, as_base64: bool) -> Iterator[bytes]:
    """The items of ``data``, comma separated, a limited number at a time."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    step = max(1, NUMBERS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        items = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(rows[index]) if as_base64 else rows[index],
            }
            for index in range(start, min(start + step, len(rows)))
        ]
        yield orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _base64(row: Vectors) -> str:
    return base64.b64encode(row.tobytes()).decode("ascii")
