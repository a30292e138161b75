"""POST /v1/embeddings and its neighbours, as NIM's clients use them, against the checkpoint itself."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import numpy.typing as npt
import openai
import pytest
from transformers import AutoTokenizer

TEXTS = ["What tunes a retriever?", "A retriever is tuned on pairs of questions and passages.", "Short"]
LONG = " ".join(f"word{number}" for number in range(400))


def vectors(response: httpx2.Response) -> npt.NDArray[np.float32]:
    assert response.status_code == 200, response.text
    return np.array([item["embedding"] for item in response.json()["data"]], dtype=np.float32)


def error(response: httpx2.Response, status: int) -> str:
    """The message of an error answer, after checking its shape."""
    body = response.json()
    assert response.status_code == status, body
    assert set(body) == {"object", "message", "detail", "type", "code", "error"}
    assert (body["error"]["message"], body["error"]["type"]) == (body["message"], body["type"])
    assert (body["object"], body["detail"], body["code"]) == ("error", {}, status)
    assert body["type"].endswith("_error")
    return body["message"]


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="not used", max_retries=0)


@pytest.mark.parametrize("role", ["query", "passage"])
def test_input_type_sets_the_prefix(server: Any, oracle: Any, role: str) -> None:
    answered = vectors(server.embed(model="retune/minilm", input=TEXTS, input_type=role))
    np.testing.assert_allclose(answered, oracle([f"{role}: {text}" for text in TEXTS]), atol=2e-6)


def test_missing_input_type_is_passage(server: Any, oracle: Any) -> None:
    np.testing.assert_allclose(
        vectors(server.embed(input=TEXTS[0])), oracle(["passage: " + TEXTS[0]]), atol=2e-6
    )


def test_missing_input_type_can_be_an_error(start: Any) -> None:
    with start(RETUNE_REQUIRE_INPUT_TYPE="1") as strict:
        assert error(strict.embed(input="text"), 400) == (
            "The model expects an input_type from one of `passage` or `query` but none was provided."
        )
        assert strict.embed(input="text", model="retune/minilm-query").status_code == 200


def test_suffix_names_the_role_and_outweighs_input_type(server: Any, oracle: Any) -> None:
    answer = server.embed(model="retune/minilm-query", input=TEXTS, input_type="passage")
    np.testing.assert_allclose(vectors(answer), oracle([f"query: {text}" for text in TEXTS]), atol=2e-6)
    assert answer.json()["model"] == "retune/minilm-query"


def test_whole_answer(server: Any) -> None:
    body = server.embed(input=["one two", "three"], input_type="query", user="me", modality="text").json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", "retune/minilm")
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", 0), ("embedding", 1)]
    tokens = len(["[CLS]", "query", ":", "one", "two", "[SEP]", "[CLS]", "query", ":", "three", "[SEP]"])
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_is_the_same_vector_in_little_endian_float32(server: Any) -> None:
    numbers = vectors(server.embed(input=TEXTS))
    packed = server.embed(input=TEXTS, encoding_format="base64").json()["data"]
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in packed]
    np.testing.assert_array_equal(numbers, np.stack(decoded))


@pytest.mark.parametrize("dimensions", [64, 128, 384])
def test_dimensions_are_cut_and_scaled(server: Any, oracle: Any, dimensions: int) -> None:
    expected = oracle([f"passage: {text}" for text in TEXTS])[:, :dimensions]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(server.embed(input=TEXTS, dimensions=dimensions)), expected, atol=5e-6)


def test_dimensions_not_offered(server: Any) -> None:
    assert error(server.embed(input="a", dimensions=65), 400) == "dimensions 65 is not one of 64, 128, 384"
    assert error(server.embed(input="a", dimensions=385), 400) == "dimensions 385 exceeds embedding size 384"


def test_mixed_dimensions_in_flight_do_not_touch_each_other(server: Any) -> None:
    """Requests that share batches, each with its own dimensions."""
    from concurrent.futures import ThreadPoolExecutor

    full = vectors(server.embed(input=[f"text number {n}" for n in range(24)]))
    with ThreadPoolExecutor(12) as pool:
        wanted = [(64, 128, 384)[n % 3] for n in range(24)]
        answers = pool.map(
            lambda n: vectors(server.embed(input=f"text number {n}", dimensions=wanted[n])), range(24)
        )
        for number, answer in enumerate(answers):
            expected = full[number, : wanted[number]]
            np.testing.assert_allclose(answer[0], expected / np.linalg.norm(expected), atol=2e-6)


def test_too_long_is_an_error_in_nims_words(server: Any, minilm: Path) -> None:
    tokens = len(AutoTokenizer.from_pretrained(minilm).encode("passage: " + LONG))
    wording = f"Input length {tokens} exceeds maximum allowed token size 256"
    assert error(server.embed(input=["fine", LONG], truncate="NONE"), 400) == wording
    assert error(server.embed(input=LONG), 400) == wording


def test_truncate_end_keeps_the_beginning(server: Any, oracle: Any) -> None:
    answer = server.embed(input=LONG, truncate="END")
    np.testing.assert_allclose(vectors(answer), oracle([f"passage: {LONG}"]), atol=2e-6)
    assert answer.json()["usage"]["total_tokens"] == 256


def test_truncate_start_keeps_the_prefix_and_the_end(server: Any, oracle: Any, minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    kept = tokenizer.encode(LONG, add_special_tokens=False)[-(256 - 2 - 2) :]
    expected = oracle(["passage: " + tokenizer.decode(kept)])
    answer = server.embed(input=LONG, truncate="START")
    assert tokenizer.encode(tokenizer.decode(kept), add_special_tokens=False) == kept
    np.testing.assert_allclose(vectors(answer), expected, atol=2e-6)


def test_batch_limit(server: Any, start: Any) -> None:
    assert error(server.embed(input=["a"] * 2049), 400) == "Batch size 2049 exceeds limit 2048"
    with start(NIM_TRITON_MAX_BATCH_SIZE="30") as narrow:
        assert narrow.embed(input=["a"] * 30).status_code == 200
        assert error(narrow.embed(input=["a"] * 31), 400) == "Batch size 31 exceeds limit 30"
    with start(NIM_TRITON_MAX_BATCH_SIZE="3", NIM_MAX_CLIENT_BATCH_SIZE="64") as wide:
        answer = vectors(wide.embed(input=[f"text {number}" for number in range(64)]))
        np.testing.assert_allclose(answer[40:41], vectors(wide.embed(input="text 40")), atol=2e-6)
        assert error(wide.embed(input=["a"] * 65), 400) == "Batch size 65 exceeds limit 64"


def test_unknown_model(server: Any) -> None:
    assert error(server.embed(input="a", model="other"), 404) == "Unsupported model, expected 'retune/minilm'"


def test_names(start: Any) -> None:
    old, new = "nvidia/llama-3.2-nv-embedqa-1b-v2", "nvidia/llama-nemotron-embed-1b-v2"
    with start(NIM_SERVED_MODEL_NAME=f"{old}, mine", MODEL_VERSION="7") as named, named.client as client:
        for name in (old, new, "mine", "retune/minilm", f"{new}-passage"):
            assert named.embed(input="a", model=name).json()["model"] == name
        assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == [
            old,
            "mine",
            "retune/minilm",
            new,
        ]
        assert client.get("/v1/metadata").json()["modelInfo"][0]["shortName"] == f"{old}:7"


def test_openai_client_with_its_defaults(client: openai.OpenAI, oracle: Any) -> None:
    """This client asks for base64 by default."""
    answer = client.embeddings.create(model="retune/minilm", input=TEXTS)
    answered = np.array([item.embedding for item in answer.data], dtype=np.float32)
    np.testing.assert_allclose(answered, oracle([f"passage: {text}" for text in TEXTS]), atol=2e-6)
    assert answer.usage.total_tokens > 0


def test_openai_client_with_nims_extras(client: openai.OpenAI, oracle: Any) -> None:
    answer = client.embeddings.create(
        model="retune/minilm",
        input=LONG,
        dimensions=64,
        encoding_format="float",
        extra_body={"input_type": "query", "truncate": "END"},
    )
    expected = oracle([f"query: {LONG}"])[0, :64]
    np.testing.assert_allclose(answer.data[0].embedding, expected / np.linalg.norm(expected), atol=5e-6)


def test_openai_client_shows_the_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds maximum allowed token size 256"):
        client.embeddings.create(model="retune/minilm", input=LONG)
    with pytest.raises(openai.NotFoundError, match="expected 'retune/minilm'"):
        client.embeddings.create(model="gpt", input="a")


def test_openai_client_lists_models(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == ["retune/minilm"]
    assert models[0].model_dump()["root"] == "retune/minilm"


@pytest.mark.parametrize(
    "key", ["Bearer **********", "Bearer NO_API_KEY_PROVIDED", "Bearer <no key provided>", "nonsense"]
)
def test_placeholder_keys_are_ignored(server: Any, key: str) -> None:
    with server.client as client:
        answer = client.post("/v1/embeddings", json={"input": "a"}, headers={"Authorization": key})
    assert answer.status_code == 200


def test_api_key(start: Any) -> None:
    with start(RETUNE_API_KEY="secret") as locked, locked.client as client:
        assert error(locked.embed(input="a"), 401) == "A valid API key is needed."
        for key in ("Bearer wrong", "Basic secret", "Bearer sécret"):
            headers = {"Authorization": key.encode()}
            assert client.post("/v1/embeddings", json={"input": "a"}, headers=headers).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/v1/embeddings", json={"input": "a"}, headers=headers).status_code == 200
        for path in ("health/live", "health/ready", "models", "metadata", "metrics"):
            assert client.get(f"/v1/{path}").status_code == 200


def test_facts_about_the_model(server: Any) -> None:
    with server.client as client:
        assert client.get("/v1/health/live").json()["live"] is True
        assert client.get("/v1/health/ready").json() == {
            "object": "health.response",
            "message": "Service is ready.",
            "ready": True,
        }
        metadata = client.get("/v1/metadata").json()
        assert metadata["modelInfo"][0]["shortName"].split(":")[0] == "retune/minilm"
        assert metadata["modelDigest"] == "5eed" * 16
        assert client.get("/v1/manifest").json()["matryoshka_dims"] == [64, 128]
        assert client.get("/v1/version").json()["release"] == "5eed5eed5eed"
        assert client.get("/v1/license").json()["name"] == "apache-2.0"


def test_openapi_describes_the_request(server: Any) -> None:
    with server.client as client:
        schema = client.get("/openapi.json").json()
        assert client.get("/docs").status_code == 200
    operation = schema["paths"]["/v1/embeddings"]["post"]
    fields = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"input", "model", "input_type", "truncate", "encoding_format", "dimensions", "modality"} <= set(
        fields
    )
    assert {"200", "400", "422", "503"} <= set(operation["responses"])


def test_metrics_count_what_was_done(server: Any) -> None:
    answered = 'retune_requests_total{code="200",endpoint="/v1/embeddings"}'
    before = [server.metric(name) for name in (answered, "retune_texts_total", "retune_tokens_total")]
    tokens = server.embed(input=TEXTS).json()["usage"]["total_tokens"]
    after = [server.metric(name) for name in (answered, "retune_texts_total", "retune_tokens_total")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 3, tokens]
    assert server.metric("retune_queued_tokens") == 0


def test_one_model_by_its_name(server: Any) -> None:
    with server.client as client:
        listed = client.get("/v1/models").json()["data"]
        for entry in listed:
            assert client.get(f"/v1/models/{entry['id']}").json() == entry
            assert client.get("/v1/models/" + entry["id"].replace("/", "%2F")).json() == entry
        missing = client.get("/v1/models/another/one")
    assert missing.status_code == 404
    assert missing.json()["object"] == "error"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": ""}, 400, "input", None),
        ({"input": ["a", 5]}, 422, "input", None),
        ({"input": LONG}, 400, "input", None),
        ({"input": "a", "dimensions": 7}, 400, "dimensions", None),
        ({"input": "a", "input_type": "x"}, 422, "input_type", None),
        ({"input": "a", "model": "x"}, 404, "model", "model_not_found"),
    ],
)
def test_errors_have_openais_shape_too(
    server: Any, body: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    answer = server.embed(**body)
    said = answer.json()
    assert answer.status_code == status
    assert said["error"] == {"message": said["message"], "type": said["type"], "param": param, "code": code}


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_what_to_set(server: Any, ids: Any) -> None:
    answer = server.embed(input=ids)
    assert answer.status_code == 422
    assert "check_embedding_ctx_length=False" in answer.json()["message"]


def test_too_long_can_be_cut_by_default(start: Any, oracle: Any) -> None:
    with start(RETUNE_DEFAULT_TRUNCATE="end", NIM_UNKNOWN="x") as cutting:
        np.testing.assert_allclose(
            vectors(cutting.embed(input=LONG)), oracle([f"passage: {LONG}"]), atol=2e-6
        )
        assert cutting.embed(input=LONG, truncate="NONE").status_code == 400
