"""The bodies of requests and answers: requests are read and checked here, answers written from arrays of vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets_pkg.nim.errors import ApiError, InternalError, UnknownModelError, UnprocessableError
from assets_pkg.nim.manifest import ServedModelManifest
from assets_pkg.nim.model import Vectors
from assets_pkg.nim.settings import ServerSettings
from assets_pkg.nim.tokens import Role, Truncate

SYNONYMS = ("nvidia/llama-3.2-nv-embedqa-1b-v2", "nvidia/llama-nemotron-embed-1b-v2")
"""One model that NVIDIA renamed: a server with either name answers to both."""

ROLE_SUFFIXES: dict[str, Role] = {"-query": "query", "-passage": "passage"}

MISSING_INPUT_TYPE = "The model expects an input_type from one of `passage` or `query` but none was provided."

TOKEN_IDS = (
    "input must be texts, not token ids; langchain-openai sends texts with check_embedding_ctx_length=False"
)

NUMBERS_PER_PART = 65536
"""Numbers written in one go, about 1 ms; then other requests may run on the event loop."""


Kind = Literal["float", "int8", "uint8", "binary", "ubinary"]
"""What a vector's numbers are in an answer."""

Numbers = npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8]


class Body(BaseModel):
    """A request's JSON object. Fields not listed are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


B = TypeVar("B", bound=Body)


class EmbeddingBody(Body):
    """The body of POST /v1/embeddings. Fields not listed are ignored."""

    # Without fail_fast, a body of millions of wrong items would produce millions of errors.
    input: Annotated[
        str | Annotated[list[str], Field(fail_fast=True)], Field(description="One text, or a list of texts.")
    ]
    model: Annotated[
        str | None,
        Field(description="The served name. `-query` or `-passage` behind it replaces `input_type`."),
    ] = None
    input_type: Annotated[
        Literal["query", "passage"] | None, Field(description="What the texts are. Default: passage.")
    ] = None
    truncate: Annotated[
        Literal["NONE", "END", "START"] | None,
        Field(description="Which end of a text that is too long is cut; NONE is an error. Default: NONE."),
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Field(description="Vectors as numbers, the default, or as base64 of them (float32 little-endian)."),
    ] = None
    dimensions: Annotated[
        int | None, Field(gt=0, description="Keep so many leading dimensions, scaled to length 1 again.")
    ] = None
    embedding_type: Annotated[
        Kind | None,
        Field(
            description="float, the default; int8, uint8: each vector scaled to its largest number; binary, ubinary: "
            "its signs, eight in a byte."
        ),
    ] = None
    modality: Annotated[
        Literal["text"] | Annotated[list[Literal["text"]], Field(fail_fast=True)] | None,
        Field(description="Only text is served."),
    ] = None
    user: Annotated[str | None, Field(description="Accepted and not used.")] = None


@dataclass(frozen=True)
class EmbeddingRequest:
    """A checked request with its defaults filled in; ``model`` is the name that the client used."""

    texts: Sequence[str]
    role: Role
    model: str
    truncate: Truncate
    dimensions: int
    base64: bool
    kind: Kind = "float"


class RequestParser:
    """The rules of one served model: its names, its dimensions, its limits."""

    def __init__(self, manifest: ServedModelManifest, settings: ServerSettings) -> None:
        self._manifest = manifest
        self._settings = settings
        self.names = served_names(manifest, settings)

    def check(self, document: object) -> EmbeddingRequest:
        """Raises `ApiError`: wrong shape (422), unknown model (404), over a limit (400)."""
        refuse_token_ids(document)
        body = validate_body(EmbeddingBody, document)
        texts = [body.input] if isinstance(body.input, str) else body.input
        self._check_texts(texts)
        if isinstance(body.modality, list) and len(body.modality) not in (1, len(texts)):
            raise ApiError("modality must be one value, or one for each input", param="modality")
        model, suffix_role = resolve_model(body.model, self.names)
        return EmbeddingRequest(
            texts=texts,
            role=self._role(suffix_role or body.input_type),
            model=model,
            truncate=body.truncate or self._settings.default_truncate,
            dimensions=resolve_dimensions(
                body.dimensions, self._manifest.dimensions, self._manifest.matryoshka_dims or None
            ),
            base64=body.encoding_format == "base64",
            kind=body.embedding_type or "float",
        )

    def _check_texts(self, texts: list[str]) -> None:
        limit = self._settings.client_batch_limit
        if not texts:
            raise ApiError("input is empty", param="input")
        if len(texts) > limit:
            raise ApiError(f"Batch size {len(texts)} exceeds limit {limit}", param="input")
        for index, text in enumerate(texts):
            if not text or text.isspace():
                raise ApiError(f"input[{index}] is empty", param="input")

    def _role(self, role: Role | None) -> Role:
        if role is None and self._settings.require_input_type:
            raise ApiError(MISSING_INPUT_TYPE, param="input_type")
        return role or "passage"


def served_names(manifest: ServedModelManifest, settings: ServerSettings) -> list[str]:
    """Every name the server answers to, its own first."""
    names = [*settings.served_names, manifest.model_id]
    if any(name in SYNONYMS for name in names):
        names.extend(SYNONYMS)
    return list(dict.fromkeys(names))


def resolve_model(name: str | None, names: Sequence[str]) -> tuple[str, Role | None]:
    """The name to answer with, and the role that its suffix states.

    Args:
        name: the name in the request, where it has one.
        names: every served name, the server's own first.

    Raises:
        UnknownModelError: the name is none of them.
    """
    if name is None:
        return names[0], None
    if name in names:
        return name, None
    for suffix, role in ROLE_SUFFIXES.items():
        # Some clients send a fixed input_type and let users choose the name only, so a suffix overrides it.
        if name.endswith(suffix) and name.removesuffix(suffix) in names:
            return name, role
    raise UnknownModelError(f"Unsupported model, expected '{names[0]}'", param="model")


def resolve_dimensions(wanted: int | None, full: int, allowed: Collection[int] | None) -> int:
    """The number of dimensions to answer with: ``wanted``, or all where nothing was asked for.

    Args:
        full: the size of the model's vectors.
        allowed: the smaller sizes that may be asked for; None for any.

    Raises:
        ApiError: the model does not have so many, or the size is not allowed.
    """
    if wanted is None or wanted == full:
        return full
    if wanted > full:
        raise ApiError(f"dimensions {wanted} exceeds embedding size {full}", param="dimensions")
    if allowed is not None and wanted not in allowed:
        choices = ", ".join(str(size) for size in sorted({*allowed, full}))
        raise ApiError(f"dimensions {wanted} is not one of {choices}", param="dimensions")
    return wanted


def parse_json(raw: bytes) -> object:
    """The document in a request's body. Raises `ApiError`: it is not valid JSON (400)."""
    # Unlike the standard library's parser, orjson refuses lone surrogates, NaN, numbers too large for a float,
    # broken UTF-8 and endless nesting, each of which would fail further in as an internal error.
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError("the body is not valid JSON") from error


def validate_body(kind: type[B], document: object) -> B:
    """A document as a body of one kind. Raises `UnprocessableError`: it has another shape."""
    if not isinstance(document, dict):
        raise UnprocessableError("the body must be a JSON object")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        path, message = _first_fault(error)
        raise UnprocessableError(f"{path}: {message}", param=path.partition(".")[0]) from error


def refuse_token_ids(document: object) -> None:
    """Raises `UnprocessableError`: the input is token ids, of which the tokenizer is not known."""
    first: Any = cast("dict[str, Any]", document).get("input") if isinstance(document, dict) else None
    for _ in range(2):  # the ids of one text, or of several
        first = first[0] if isinstance(first, list) and first else None
        if type(first) is int:
            raise UnprocessableError(TOKEN_IDS, param="input")


def _first_fault(error: ValidationError) -> tuple[str, str]:
    """Where and what, without the value: ``input.3``, ``Input should be a valid string``.

    Every branch of a union reports a fault; the deepest is of the branch that the client meant.
    """
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    fault = max(faults, key=lambda each: len(each["loc"]))
    path = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
    return path, fault["msg"]


def _is_branch(part: int | str) -> bool:
    """Whether a part of an error's path names a branch of a union instead of a key of the body."""
    return isinstance(part, str) and (part == "str" or "[" in part)


class Embedding(BaseModel):
    """One vector; a string is base64 of little-endian float32, or of the bytes of another ``embedding_type``."""

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


def truncate(vectors: Vectors, dimensions: int) -> Vectors:
    """The first ``dimensions`` components of each unit vector, scaled to length 1: float32 [rows, dimensions].

    Matryoshka Representation Learning (Kusupati et al. 2022) trains models for this.

    Raises:
        InternalError: these components of a row are all zero, or one is not finite: they have no direction.
    """
    part = vectors[:, :dimensions]
    norms = np.linalg.norm(part, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise InternalError(f"The first {dimensions} dimensions of an embedding are all zero or not finite.")
    return vectors if dimensions == vectors.shape[1] else part / norms


def as_kind(vectors: Vectors, kind: Kind) -> Numbers:
    """Unit vectors, float32 [rows, dimensions], as the numbers of an answer.

    int8 is 127 times the vector over its largest absolute number, so that directions stay and cosine similarity with
    them; lengths do not. uint8 is that plus 128. binary and ubinary have the signs, the first in the highest bit, in
    ceil(dimensions / 8) bytes, as in sentence-transformers' ``quantize_embeddings``: binary is ubinary less 128.
    """
    if kind == "float":
        return np.ascontiguousarray(vectors, dtype="<f4")
    if kind in ("binary", "ubinary"):
        packed = np.packbits(vectors > 0, axis=1)
        return packed if kind == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    scaled = np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True)))
    return scaled.astype(np.int8) if kind == "int8" else (scaled + 128).astype(np.uint8)


async def embeddings_body(request: EmbeddingRequest, vectors: Vectors, tokens: int) -> bytes:
    """The JSON of an `EmbeddingList`. Numbers have the fewest digits that give the same float32 back."""
    parts: list[bytes] = []
    for part in _parts(as_kind(vectors, request.kind), request.base64):
        if parts:
            await asyncio.sleep(0)
        parts.append(part)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = orjson.dumps({"model": request.model, "usage": usage})
    return b'{"object":"list","data":[' + b",".join(parts) + b"]," + rest[1:]


def _parts(rows: Numbers, as_base64: bool) -> Iterator[bytes]:
    """The items of ``data``, comma separated, at most ``NUMBERS_PER_PART`` numbers in a part."""
    step = max(1, NUMBERS_PER_PART // rows.shape[1])
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


def _base64(row: Numbers) -> str:
    return base64.b64encode(row.tobytes()).decode("ascii")
