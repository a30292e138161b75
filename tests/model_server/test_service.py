"""The service over real HTTP: every dialect gives the model's own vectors; what is wrong gets a clear answer."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from resources.encoders.conformance import truth_checks
from resources.encoders.http import EgressError, HttpEncoder, ServiceError, server_problem
from resources.encoders.items import Item, data_uri
from resources.models.entry import Dialect, ModelEntry
from tests.model_server.conftest import Running

RED = Image.new("RGB", (64, 48), (255, 0, 0))
BLUE = Image.new("RGB", (96, 64), (0, 0, 255))
PICTURE = Item(images=(RED,))
BOTH = Item(text="dark blue sea", images=(BLUE,))
CLOSE = 1e-5


def post(served: Running, path: str, body: Any) -> httpx2.Response:
    return httpx2.post(served.url + path, json=body, timeout=60)


def vectors(reply: httpx2.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return np.array([row["embedding"] for row in reply.json()["data"]], dtype=np.float32)


def same(first: Any, second: Any) -> bool:
    return bool(np.abs(np.asarray(first) - np.asarray(second)).max() < CLOSE)


def bomb(width: int, height: int) -> str:
    """A PNG of a few kilobytes whose header promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


class TestShapes:
    """One model, asked in every way that is in use."""

    @pytest.mark.parametrize(
        ("body", "items"),
        [
            ({"input": "red"}, ["red"]),
            ({"input": ["red", "dark blue sea"], "model": "Qwen/tiny"}, ["red", "dark blue sea"]),
            ({"input": [data_uri(RED)], "modality": "image"}, [PICTURE]),
            ({"input": ["red", data_uri(RED)], "modality": ["text", "image"]}, ["red", PICTURE]),
            ({"input": ["red", data_uri(RED)]}, ["red", PICTURE]),
            ({"input": [f"dark blue sea {data_uri(BLUE)}"], "modality": "text_image"}, [BOTH]),
            ({"input": [f"dark blue sea {data_uri(BLUE)}"]}, [BOTH]),
            ({"input": [{"text": "red"}, {"image": data_uri(RED)}]}, ["red", PICTURE]),
            ({"input": [{"text": "dark blue sea", "image": data_uri(BLUE)}]}, [BOTH]),
            (
                {"input": ["red", [{"type": "image_url", "image_url": {"url": data_uri(BLUE)}},
                                   {"type": "text", "text": "dark blue sea"}]]},
                ["red", BOTH],
            ),
            ({"input": [{"content": [{"type": "text", "text": "red"}]}]}, ["red"]),
            (
                {"inputs": [{"content": [{"type": "text", "text": "dark blue sea"},
                                         {"type": "image_base64", "image_base64": data_uri(BLUE)}]}]},
                [BOTH],
            ),
            (
                {"messages": [{"role": "system", "content": "Find the colour."},
                              {"role": "user", "content": [
                                  {"type": "image_url", "image_url": {"url": data_uri(BLUE)}},
                                  {"type": "text", "text": "dark blue sea"}]}],
                 "add_generation_prompt": True},
                [Item("dark blue sea", (BLUE,), "Find the colour.")],
            ),
        ],
    )  # fmt: skip
    def test_gives_the_models_own_vectors(
        self, qwen: Running, body: dict[str, Any], items: list[Any]
    ) -> None:
        for path in ("/v1/embeddings", "/embeddings"):
            assert same(vectors(post(qwen, path, body)), qwen.encoder.embed(items, "passage"))

    def test_base64_and_fewer_dimensions(self, qwen: Running) -> None:
        reply = post(qwen, "/v1/embeddings", {"input": "red", "encoding_format": "base64", "dimensions": 16})
        found = np.frombuffer(base64.b64decode(reply.json()["data"][0]["embedding"]), dtype="<f4")
        whole = qwen.encoder.embed(["red"], "passage")[0][:16]
        assert same(found, whole / np.linalg.norm(whole))

    def test_stock_openai_client(self, qwen: Running) -> None:
        import openai

        client = openai.OpenAI(base_url=f"{qwen.url}/v1", api_key="none")
        answer = client.embeddings.create(model="tiny-qwen", input=["red", "dark blue sea"])
        assert same(
            [row.embedding for row in answer.data], qwen.encoder.embed(["red", "dark blue sea"], "passage")
        )

    def test_what_it_says_of_itself(self, qwen: Running) -> None:
        assert httpx2.get(f"{qwen.url}/health").json() == {"status": "ok"}
        assert httpx2.get(f"{qwen.url}/v1/health/ready").status_code == 200
        names = [model["id"] for model in httpx2.get(f"{qwen.url}/v1/models").json()["data"]]
        assert names == ["tiny-qwen", "Qwen/tiny"]
        facts = httpx2.get(f"{qwen.url}/v1/metadata").json()
        assert (facts["dimensions"], facts["modelDigest"]) == (64, qwen.encoder.identity("passage"))


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            ({"input": []}, 400, "input is missing or empty"),
            ({}, 400, "input is missing or empty"),
            ({"input": " "}, 400, "input[0] is empty"),
            ({"input": ["a"] * 257}, 400, "Batch size 257 exceeds limit 256"),
            ({"input": 5}, 422, "input"),
            ({"input": [[1, 2]]}, 422, "not token ids"),
            ({"input": "a", "modality": "sound"}, 400, "modality must be text, image or text_image"),
            ({"input": ["a", "b"], "modality": ["text"] * 3}, 400, "one for each input"),
            ({"input": "a", "modality": "text_image"}, 400, "a space and a data URI"),
            ({"input": "a", "model": "other"}, 404, "expected 'tiny-qwen'"),
            ({"input": "a", "dimensions": 65}, 400, "dimensions 65 exceeds embedding size 64"),
            ({"input": "a", "dimensions": 20}, 400, "dimensions 20 is not one of 16, 32, 64"),
            ({"input": data_uri(RED), "input_type": "query"}, 400, "an image is a passage"),
            ({"input": [{"image": "https://example.org/cat.png"}]}, 400, "URLs are not fetched"),
            (
                {"input": [[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]]},
                400,
                "not fetched",
            ),
            ({"input": [[{"type": "video", "video": "x"}]]}, 400, "must be of type text"),
            ({"input": ["x"], "modality": "image"}, 400, "image"),
            ({"input": [{"image": "!!!!"}]}, 400, "not base64"),
            (
                {"input": [{"text": "a", "image": [data_uri(RED)] * 9}]},
                400,
                "9 images, more than the 8 allowed",
            ),
            ({"messages": []}, 400, "no user message"),
            ({"messages": [{"role": "user", "content": "a"}] * 2}, 400, "one user message gives one vector"),
            ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "system or user message"),
        ],
    )
    def test_have_a_status_and_a_reason(self, qwen: Running, body: Any, status: int, message: str) -> None:
        reply = post(qwen, "/v1/embeddings", body)
        assert reply.status_code == status
        assert reply.json()["object"] == "error"
        assert message in reply.json()["message"]

    @pytest.mark.parametrize(
        ("side", "message"),
        [
            (8_000, "8,000 x 8,000 pixels, more than the 50,000,000 allowed"),
            (100_000, "more than the 50,000,000 pixels allowed"),
        ],
    )
    def test_a_decompression_bomb_is_refused_from_its_header(
        self, qwen: Running, side: int, message: str
    ) -> None:
        reply = post(qwen, "/img/embed", {"input": bomb(side, side)})
        assert reply.status_code == 400
        assert message in reply.json()["message"]

    def test_an_odd_format_and_a_broken_file_are_refused(self, qwen: Running) -> None:
        stream = io.BytesIO()
        RED.save(stream, format="PCX")
        reply = post(qwen, "/img/embed", {"input": base64.b64encode(stream.getvalue()).decode()})
        assert (reply.status_code, "not an image of a format" in reply.json()["message"]) == (400, True)
        noise = Image.effect_noise((64, 64), 50)
        stream = io.BytesIO()
        noise.save(stream, format="PNG")
        reply = post(qwen, "/img/embed", {"input": base64.b64encode(stream.getvalue()[:2000]).decode()})
        assert (reply.status_code, "the image is broken" in reply.json()["message"]) == (400, True)

    def test_a_dual_tower_embeds_no_pairs(self, clip: Running) -> None:
        reply = post(clip, "/v1/embeddings", {"input": [{"text": "a", "image": data_uri(RED)}]})
        assert reply.status_code == 400
        assert "does not embed text_image, only text, image" in reply.json()["message"]

    @pytest.mark.parametrize(
        ("content", "media", "status"),
        [(b"{", "application/json", 400), (b"[]", "application/json", 422), (b"{}", "text/plain", 415)],
    )
    def test_what_is_no_json_object(self, qwen: Running, content: bytes, media: str, status: int) -> None:
        for path in ("/v1/embeddings", "/txt/embed", "/img/embed"):
            reply = httpx2.post(qwen.url + path, content=content, headers={"content-type": media})
            assert reply.status_code == status


def describe(reply: dict[str, Any], path: str) -> Any:
    """How color-perception-bench's client reads `/openapi.json` to learn whether it may send batches."""
    content = reply["paths"][path]["post"]["requestBody"]["content"]
    for media, spec in content.items():
        if "json" not in media:
            continue
        schema = _resolved(spec["schema"], reply)
        schema_of_input = _resolved(schema["properties"]["input"], reply)
        options = [schema_of_input, *schema_of_input.get("anyOf", []), *schema_of_input.get("oneOf", [])]
        for option in (_resolved(option, reply) for option in options):
            if option.get("type") == "array":
                return option.get("maxItems", 1024)
    return None


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


class TestOriginClient:
    """The requests that color-perception-bench's ``LocalProvider`` sends, and what it reads of the answers."""

    def test_learns_of_batches_from_openapi(self, qwen: Running) -> None:
        document = httpx2.get(f"{qwen.url}/openapi.json").json()
        assert {"/txt/embed", "/img/embed"} <= set(document["paths"])
        assert describe(document, "/txt/embed") == describe(document, "/img/embed") == 256

    def test_single_requests_get_one_vector(self, qwen: Running) -> None:
        text = post(qwen, "/txt/embed", {"input": "red"}).json()
        assert same(text["embedding"], qwen.encoder.embed(["red"], "passage")[0])
        for value in (data_uri(RED), data_uri(RED).partition(",")[2]):
            image = post(qwen, "/img/embed", {"input": value}).json()
            assert same(image["embedding"], qwen.encoder.embed([PICTURE], "passage")[0])

    def test_batches_get_a_list_of_vectors(self, qwen: Running) -> None:
        texts = post(qwen, "/txt/embed", {"input": ["red", "dark blue sea"]}).json()
        assert same(texts["embedding"], qwen.encoder.embed(["red", "dark blue sea"], "passage"))
        images = post(qwen, "/img/embed", {"input": [data_uri(RED), data_uri(BLUE)]}).json()
        assert same(images["embedding"], qwen.encoder.embed([PICTURE, Item(images=(BLUE,))], "passage"))

    def test_too_large_a_batch_is_refused(self, qwen: Running) -> None:
        assert post(qwen, "/txt/embed", {"input": ["a"] * 257}).status_code == 422
        assert post(qwen, "/txt/embed", {"input": []}).status_code == 422
        assert post(qwen, "/txt/embed", {"input": " "}).status_code == 400


class TestHttpEncoder:
    """Our own client in every dialect against our own service."""

    def client(self, served: Running, dialect: Dialect, **facts: Any) -> HttpEncoder:
        values: dict[str, Any] = {
            "adapter": "http", "dialect": dialect, "modalities": served.entry.modalities, "dimensions": 64,
            "base_url": served.url if dialect == "local" else f"{served.url}/v1", "hub_id": "Qwen/tiny",
        }  # fmt: skip
        if dialect == "local":
            values |= {"provider_type": "local", "modalities": ["text", "image"]}
        if dialect == "voyage":
            values["text_endpoint"] = values["image_endpoint"] = {"path": "/multimodalembeddings"}
        return HttpEncoder("remote", ModelEntry.model_validate(values | facts))

    @pytest.mark.parametrize(
        ("dialect", "items"),
        [
            ("local", ["red", PICTURE, "dark blue sea"]),
            ("openai", ["red", PICTURE]),
            ("nim", ["red", PICTURE, BOTH]),
            ("vllm", ["red", PICTURE, BOTH]),
            ("infinity", ["red", PICTURE]),
            ("jina", ["red", PICTURE]),
            ("voyage", ["red", PICTURE, BOTH]),
            ("deepinfra", ["red", PICTURE, BOTH]),
            ("llama_cpp", ["red", PICTURE, BOTH]),
        ],
    )
    def test_gives_the_served_models_vectors_in_order(
        self, qwen: Running, dialect: Dialect, items: list[Any]
    ) -> None:
        reported: list[int] = []
        found = self.client(qwen, dialect).embed(
            items, "passage", lambda done, total, unit, **_: reported.append(done)
        )
        assert same(found, qwen.encoder.embed(items, "passage"))
        assert reported[-1] == len(items)

    def test_passes_the_truth_checks_that_can_be_seen_from_outside(self, qwen: Running) -> None:
        client = self.client(qwen, "nim")
        checks = {check.name: check.passed for check in truth_checks(client.entry, client)}
        assert checks == {
            "unit norm": True, "dimensions": True, "batch equals single": True, "padding invariant": True,
            "inside": None,
        }  # fmt: skip

    def test_identity_follows_the_served_weights(self, qwen: Running, clip: Running) -> None:
        one, same_again = self.client(qwen, "nim"), self.client(qwen, "nim")
        assert one.identity("query") == same_again.identity("query") != one.identity("passage")

    def test_another_size_than_registered_is_an_error(self, clip: Running) -> None:
        client = self.client(clip, "local")
        with pytest.raises(ServiceError, match="gave vectors of 32 numbers, and the registry has 64"):
            client.embed(["red"], "query")

    def test_an_error_of_the_service_is_told(self, qwen: Running) -> None:
        client = self.client(qwen, "openai", text_endpoint={"path": "/embeddings", "model": "other"})
        with pytest.raises(ServiceError, match=r"HTTP 404: .*Unsupported model"):
            client.embed(["red"], "query")

    def test_nothing_is_sent_elsewhere_without_consent(self) -> None:
        entry = ModelEntry(adapter="http", base_url="https://api.example.org/v1", dimensions=3)

        def refuse(request: httpx2.Request) -> httpx2.Response:
            raise AssertionError("sent")

        client = HttpEncoder("far", entry, transport=httpx2.MockTransport(refuse))
        with pytest.raises(EgressError, match=r"2 texts or images would be sent to api\.example\.org"):
            client.embed(["a", "b"], "query")

    def test_tries_again_and_honours_retry_after(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        monkeypatch.setattr("resources.encoders.http.time.sleep", waits.append)
        replies = iter([
            httpx2.Response(429, headers={"retry-after": "7"}),
            httpx2.Response(524),
            httpx2.Response(200, json={"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 0]}]}),
        ])  # fmt: skip
        entry = ModelEntry(adapter="http", base_url="http://localhost:1/v1")
        client = HttpEncoder("x", entry, transport=httpx2.MockTransport(lambda request: next(replies)))
        assert client.embed(["a", "b"], "query").tolist() == [[1, 0], [0, 1]]
        assert waits[0] == 7.0
        assert len(waits) == 2

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ({"data": [{"embedding": [1.0]}]}, "1 vectors for 2 inputs"),
            ({"result": 1}, "has none of"),
            ({"embeddings": [[0, 0], [0, 1]]}, "zero or not finite"),
            ({"embeddings": [[1, 0], [1]]}, "gave|inhomogeneous"),
            (None, "has none of"),
        ],
    )
    def test_answers_without_the_vectors_are_errors(self, answer: Any, message: str) -> None:
        entry = ModelEntry(adapter="http", base_url="http://localhost:1/v1")
        reply = httpx2.Response(200, json=answer)
        client = HttpEncoder("x", entry, transport=httpx2.MockTransport(lambda request: reply))
        with pytest.raises(ServiceError, match=message):
            client.embed(["a", "b"], "query")

    def test_a_key_is_sent_and_its_absence_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []

        def answer(request: httpx2.Request) -> httpx2.Response:
            seen.append(request.headers.get("authorization", ""))
            return httpx2.Response(200, json={"embedding": [1, 0]})

        entry = ModelEntry(adapter="http", base_url="http://localhost:1/v1", api_key_env="SOME_KEY")
        client = HttpEncoder("x", entry, transport=httpx2.MockTransport(answer))
        monkeypatch.delenv("SOME_KEY", raising=False)
        with pytest.raises(ServiceError, match="SOME_KEY is not set"):
            client.embed(["a"], "query")
        monkeypatch.setenv("SOME_KEY", "secret")
        client.embed(["a"], "query")
        assert seen == ["Bearer secret"]

    def test_the_prefix_goes_to_services_without_roles(self) -> None:
        bodies: list[Any] = []

        def answer(request: httpx2.Request) -> httpx2.Response:
            bodies.append(request.read())
            return httpx2.Response(200, json={"embedding": [1, 0]})

        entry = ModelEntry.model_validate(
            {"adapter": "http", "base_url": "http://localhost:1/v1", "prompts": {"query": "query: "}}
        )
        HttpEncoder("x", entry, transport=httpx2.MockTransport(answer)).embed(["a"], "query")
        assert b'"query: a"' in bodies[0].replace(b'": "', b'": "')

    def test_a_missing_server_is_reported(self, qwen: Running) -> None:
        gone = ModelEntry.model_validate({"provider_type": "local", "base_url": "http://127.0.0.1:9"})
        there = ModelEntry.model_validate({"provider_type": "local", "base_url": qwen.url})
        assert "no server answers at http://127.0.0.1:9" in (server_problem("x", gone) or "")
        assert server_problem("x", there) is None
