"""Requests made to break a server, for the tests of both servers and for `bench/hostile.py`."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

MARK = "ZXCVQ"
"""Put into hostile inputs; must not come back."""


def body(**fields: Any) -> bytes:
    return json.dumps({"input": "text", **fields}).encode()


HOSTILE: list[tuple[str, bytes, int]] = [
    ("nothing", b"", 400),
    ("not JSON", f"{MARK}".encode(), 400),
    ("half JSON", b'{"input": ["a"', 400),
    ("not an object", b'["a"]', 422),
    ("null", b"null", 422),
    ("broken UTF-8", b'{"input": "\xff\xfe"}', 400),
    ("lone surrogate", b'{"input": "\\ud800"}', 400),
    ("lone surrogate in model", b'{"input": "a", "model": "\\udfff"}', 400),
    ("NaN", b'{"input": "a", "dimensions": NaN}', 400),
    ("too large a number", b'{"input": "a", "dimensions": 1e400}', 400),
    ("endless number", b'{"input": "a", "dimensions": ' + b"9" * 5000 + b"}", 400),
    ("deep nesting", b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    ("deep nesting of objects", b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    ("no input", b'{"model": "retune/minilm"}', 422),
    ("input null", body(input=None), 422),
    ("input number", body(input=7), 422),
    ("input of numbers", body(input=[1, 2, 3]), 422),
    ("input of token lists", body(input=[[1, 2], [3]]), 422),
    ("input of objects", body(input=[{"text": MARK}]), 422),
    ("input half text", body(input=["a", None]), 422),
    ("no texts", body(input=[]), 400),
    ("empty text", body(input=""), 400),
    ("blank text", body(input=["a", " \n\t\u3000"]), 400),
    ("too many texts", body(input=["a"] * 10_000), 400),
    ("dimensions true", body(dimensions=True), 422),
    ("dimensions text", body(dimensions="64"), 422),
    ("dimensions float", body(dimensions=64.0), 422),
    ("dimensions zero", body(dimensions=0), 422),
    ("dimensions negative", body(dimensions=-1), 422),
    ("dimensions huge", body(dimensions=2**62), 400),
    ("input_type", body(input_type=MARK), 422),
    ("input_type case", body(input_type="Query"), 422),
    ("truncate", body(truncate=MARK), 422),
    ("encoding_format", body(encoding_format=MARK), 422),
    ("embedding_type", body(embedding_type="int4"), 422),
    ("modality", body(modality="image"), 422),
    ("modality of another number", body(input=["a", "b", "c"], modality=["text", "text"]), 400),
    ("model", body(model=MARK), 404),
    ("model number", body(model=3), 422),
    ("model list", body(model=["retune/minilm"]), 422),
    ("user object", body(user={"a": MARK}), 422),
]
"""Bodies of POST /v1/embeddings, and what the embedding server answers."""


class HostileRequest(NamedTuple):
    """One request; ``headers`` are those besides the key."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    content: bytes


def hostile_requests(post_paths: tuple[str, ...]) -> Iterator[HostileRequest]:
    """Every hostile body on every path that takes one, and hostile heads."""
    json_type = {"Content-Type": "application/json"}
    for path in post_paths:
        for name, content, _ in HOSTILE:
            yield HostileRequest(name, "POST", path, json_type, content)
        for name, fields in MULTIMODAL.items():
            yield HostileRequest(name, "POST", path, json_type, json.dumps(fields).encode())
        for name, headers, content in HEADS:
            yield HostileRequest(name, "POST", path, {**json_type, **headers}, content)
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            yield HostileRequest(f"method {method}", method, path, {}, b"")
    for path in ODD_PATHS:
        yield HostileRequest(f"path {path[:20]}", "GET", path, {}, b"")


def png(width: int, height: int, data: bytes = b"\0" * 100_000) -> str:
    """Base64 of a PNG of a few kilobytes whose header says that it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _uri(data: str, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{data}"


_SVG = base64.b64encode(
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
).decode()

MULTIMODAL: dict[str, dict[str, Any]] = {
    "pixels without end": {"input": _uri(png(2**31 - 1, 2**31 - 1))},
    "many large images": {"input": [_uri(png(9000, 9000))] * 20},
    "image cut off": {"input": _uri(png(64, 64)[:120])},
    "image that is no base64": {"input": _uri("!!!" + MARK)},
    "image of another kind": {"input": _uri(_SVG, "svg+xml")},
    "empty image": {"input": [{"image": ""}]},
    "image by address": {"input": [{"image": "http://169.254.169.254/" + MARK}]},
    "image by file": {"input": [{"image": "file:///etc/passwd"}]},
    "image of a number": {"input": [{"image": 7}]},
    "more images than allowed": {"input": [{"image": [_uri(png(8, 8))] * 100}]},
    "item without anything": {"input": [{}]},
    "item of nulls": {"input": [{"text": None, "image": None}]},
    "text that is an object": {"input": [{"text": {"text": MARK}}]},
    "parts within parts": {"input": [[[["a"]]]]},
    "part of an unknown type": {"input": [[{"type": MARK}]]},
    "part without a value": {"input": [[{"type": "image_url"}]]},
    "image_url of an empty object": {"input": [[{"type": "image_url", "image_url": {}}]]},
    "content that is a number": {"input": [{"content": 7}]},
    "no messages": {"messages": []},
    "message without a role": {"messages": [{"content": "a"}]},
    "role of an object": {"messages": [{"role": {}, "content": "a"}]},
    "only a system message": {"messages": [{"role": "system", "content": "a"}]},
    "two user messages": {"messages": [{"role": "user", "content": "a"}] * 2},
    "inputs empty": {"inputs": []},
    "inputs of nothing": {"inputs": [{}]},
    "modality unknown": {"input": "a", "modality": MARK},
    "modalities of another number": {"input": ["a"], "modality": ["text"] * 5},
    "text and URI together": {"input": "a " + _uri(png(1, 1, b"\0\xff\0\0")), "input_type": "query"},
    "data URIs without end": {"input": "data:image/a;base64," * 2000 + " x"},
    "text of a million characters": {"input": "many words " * 90_000, "truncate": "END"},
    "control characters": {"input": "".join(map(chr, range(1, 32))) + "\u202e\ufeff\u2028"},
    "one long word": {"input": "\u1d160" * 5000, "truncate": "START"},
    "dimensions beyond the model": {"input": "a", "dimensions": 10**6},
}

HEADS: list[tuple[str, dict[str, str], bytes]] = [
    ("another media type", {"Content-Type": "text/plain"}, b'{"input": "a"}'),
    ("form", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--"),
    ("media type without end", {"Content-Type": "application/json;" + "a" * 8000}, b'{"input": "a"}'),
    ("media type of nothing", {"Content-Type": ";"}, b'{"input": "a"}'),
    ("compressed", {"Content-Encoding": "gzip"}, gzip.compress(b'{"input": "a"}')),
    ("unknown encoding", {"Content-Encoding": MARK}, b'{"input": "a"}'),
    ("UTF-16", {"Content-Type": "application/json; charset=utf-16"}, '{"input": "a"}'.encode("utf-16")),
    ("other host", {"Host": "evil.example"}, b'{"input": "a"}'),
    ("forwarded", {"X-Forwarded-For": "1.2.3.4, " * 500}, b'{"input": "a"}'),
    ("override", {"X-HTTP-Method-Override": "DELETE"}, b'{"input": "a"}'),
    ("range", {"Range": "bytes=0-1," * 500}, b'{"input": "a"}'),
    ("accepts nothing", {"Accept": "image/png;q=0"}, b'{"input": "a"}'),
]

ODD_PATHS = (
    "/",
    "/v1",
    "/v1/",
    "/v1/embeddings/",
    "/v1//embeddings",
    "/v1/../etc/passwd",
    "/v1/%2e%2e/%2e%2e/etc/passwd",
    "/static-offline-docs/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/v1/models/" + "a" * 4000,
    "/v1/models/%00%ff",
    "/v1/models?" + "a=b&" * 1000,
    "/openapi.json/x",
    "/docs/oauth2-redirect?state=" + MARK,
)
