"""The body of a successful answer, written straight from the array of vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import numpy as np
import orjson
from pydantic import BaseModel

from assets_pkg.nim.model import Vectors
from assets_pkg.nim.parse import EmbeddingRequest

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
