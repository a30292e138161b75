"""The Open Inference Protocol over gRPC, as NVIDIA's own client speaks it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.loopback import free_port

MODEL = "retune_minilm"
TEXTS = ["What tunes a retriever?", "A retriever is tuned on pairs.", "Short"]
LONG = " ".join(f"word{number}" for number in range(400))


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(start: Any, port: int) -> Generator[Any]:
    with start(NIM_GRPC_API_PORT=str(port), RETUNE_DRAIN_GRACE_S="0") as running:
        yield running


@pytest.fixture
def client(served: Any, port: int) -> Generator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as made:
        yield made


def tensor(texts: Sequence[str | bytes], name: str = "text", columns: bool = True) -> triton.InferInput:
    shape = [len(texts), 1] if columns else [len(texts)]
    made = triton.InferInput(name, shape, "BYTES")
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    made.set_data_from_numpy(np.array(encoded, dtype=np.object_).reshape(shape))
    return made


def infer(client: Any, texts: Sequence[str | bytes], **parameters: Any) -> triton.InferResult:
    return client.infer(MODEL, [tensor(texts)], parameters=parameters)


def vectors(result: triton.InferResult) -> npt.NDArray[np.float32]:
    array = result.as_numpy("embeddings")
    assert array is not None
    assert array.dtype == np.float32
    return array


def refusal(client: Any, texts: Sequence[str | bytes], **parameters: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        infer(client, texts, **parameters)
    return refused.value.status(), refused.value.message()


def test_live_ready_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "retune"
    metadata = client.get_model_metadata(MODEL, as_json=True)
    assert (metadata["name"], metadata["versions"]) == (MODEL, ["1"])
    assert [(each["name"], each["datatype"]) for each in metadata["inputs"]] == [("text", "BYTES")]
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["outputs"]}
    assert outputs == {"token_count": ("INT32", ["-1"]), "embeddings": ("FP32", ["-1", "384"])}


@pytest.mark.parametrize("role", ["query", "passage"])
def test_same_vectors_as_the_checkpoint(client: Any, oracle: Any, role: str) -> None:
    result = infer(client, TEXTS, input_type=role)
    np.testing.assert_allclose(vectors(result), oracle([f"{role}: {text}" for text in TEXTS]), atol=2e-6)
    counts = result.as_numpy("token_count")
    assert counts.dtype == np.int32
    assert counts[2] == len(["[CLS]", role, ":", "short", "[SEP]"])


def test_a_flat_tensor_the_models_id_and_one_output(client: Any, oracle: Any) -> None:
    output = triton.InferRequestedOutput("embeddings")
    result = client.infer("retune/minilm", [tensor(TEXTS, columns=False)], outputs=[output], request_id="7")
    np.testing.assert_allclose(vectors(result), oracle([f"passage: {text}" for text in TEXTS]), atol=2e-6)
    assert result.get_response().id == "7"
    assert result.as_numpy("token_count") is None


def test_dimensions_and_truncation(client: Any, oracle: Any) -> None:
    expected = oracle([f"passage: {LONG}"])[:, :64]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(
        vectors(infer(client, [LONG], dimensions=64, truncate="END")), expected, atol=5e-6
    )


def test_same_answer_over_http(client: Any, served: Any) -> None:
    answer = served.embed(input=TEXTS, input_type="query").json()["data"]
    over_http = np.array([item["embedding"] for item in answer], dtype=np.float32)
    np.testing.assert_array_equal(vectors(infer(client, TEXTS, input_type="query")), over_http)


def test_what_triton_clients_ask_for_besides(client: Any) -> None:
    config = client.get_model_config(MODEL).config
    assert (config.max_batch_size, config.input[0].name) == (2048, "text")
    assert [(each.name, each.data_type) for each in config.output] == [("token_count", 8), ("embeddings", 11)]
    before = client.get_inference_statistics(MODEL).model_stats[0]
    infer(client, ["a", "b"])
    after = client.get_inference_statistics(MODEL).model_stats[0]
    assert (after.inference_count - before.inference_count, after.name) == (2, MODEL)
    assert after.execution_count > before.execution_count
    with pytest.raises(triton.InferenceServerException, match="Unsupported model"):
        client.get_model_config("another")


def test_other_numbers(client: Any) -> None:
    numbers = vectors(infer(client, ["a text"]))
    signed = infer(client, ["a text"], embedding_type="int8").as_numpy("embeddings")
    assert (signed.dtype, signed.shape) == (np.int8, numbers.shape)
    packed = infer(client, ["a text"], embedding_type="ubinary").as_numpy("embeddings")
    np.testing.assert_array_equal(packed, np.packbits(numbers > 0, axis=1))


def test_refusals(client: Any) -> None:
    invalid = "StatusCode.INVALID_ARGUMENT"
    code, message = refusal(client, [LONG])
    assert (code, "exceeds maximum allowed token size 256" in message) == (invalid, True)
    assert refusal(client, [" "]) == (invalid, "input[0] is empty")
    assert refusal(client, ["a"] * 2049) == (invalid, "Batch size 2049 exceeds limit 2048")
    assert refusal(client, [b"\xff\xfe"]) == (invalid, "`text` is not valid UTF-8")
    assert refusal(client, ["a"], input_type="other")[0] == invalid
    assert refusal(client, ["a"], dimensions="64")[0] == invalid
    with pytest.raises(InferenceServerException, match="expected 'retune_minilm'"):
        client.infer("other", [tensor(["a"])])
    with pytest.raises(InferenceServerException, match="named `text`"):
        client.infer(MODEL, [tensor(["text"], "modality")])
    with pytest.raises(InferenceServerException, match="both of datatype BYTES"):
        client.infer(MODEL, [tensor(["text"]), tensor(["a"], "image")])


def test_a_torn_tensor_is_refused(client: Any) -> None:
    """Bytes that the client library would not send."""
    torn = tensor(["whole", "torn"])
    torn._raw_content = torn._raw_content[:-2]
    with pytest.raises(InferenceServerException, match="ends within a value"):
        client.infer(MODEL, [torn])
    long = tensor(["whole", "torn"])
    long._input.shape[0] = 3
    with pytest.raises(InferenceServerException, match="does not fit its 2 values"):
        client.infer(MODEL, [long])


def test_api_key(start: Any) -> None:
    port = free_port()
    with start(NIM_GRPC_API_PORT=str(port), RETUNE_API_KEY="secret"):
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        assert client.is_server_ready()
        assert refusal(client, ["a"])[0] == "StatusCode.UNAUTHENTICATED"
        headers = {"authorization": "Bearer secret"}
        assert vectors(client.infer(MODEL, [tensor(["a"])], headers=headers)).shape == (1, 384)


@pytest.mark.slow
def test_a_full_house_refuses_and_a_cancelled_call_leaves_the_queue(start: Any) -> None:
    port = free_port()
    slow = ["a text of some length that takes the model a while to embed " * 16] * 15
    with start("--workers", "1", NIM_GRPC_API_PORT=str(port), NIM_SERVER_MAX_QUEUE_SIZE="2") as served:
        address = f"127.0.0.1:{port}"

        def call(_: int) -> str:
            with triton.InferenceServerClient(address) as client:
                try:
                    return str(len(vectors(infer(client, slow, truncate="END"))))
                except InferenceServerException as error:
                    return error.status()

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(call, range(6))) == {"15", "StatusCode.RESOURCE_EXHAUSTED"}

        async def leave() -> None:
            async with triton_aio.InferenceServerClient(address) as client:
                with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
                    await client.infer(
                        MODEL, [tensor(slow)], parameters={"truncate": "END"}, client_timeout=0.2
                    )

        asyncio.run(leave())
        while served.metric("retune_queued_requests"):
            pass
        assert served.metric("retune_requests_abandoned_total") == 1
        assert served.metric("retune_queued_tokens") == 0


def test_it_is_off_unless_asked_for_and_a_taken_port_is_said(start: Any, folder: Path) -> None:
    from tests.nim.test_process import run

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = run(folder, "--port", "0", "--grpc-port", str(port))
    assert status == 1
    assert f"cannot serve gRPC on 127.0.0.1 port {port}" in log


@pytest.mark.slow
def test_calls_under_way_are_answered_when_it_is_told_to_stop(start: Any) -> None:
    port = free_port()
    with start(
        NIM_GRPC_API_PORT=str(port), NIM_MAX_CLIENT_BATCH_SIZE="400", RETUNE_DRAIN_GRACE_S="0"
    ) as served:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(infer, client, [f"{n} of many texts to embed " * 12 for n in range(120)])
            while not served.metric("retune_queued_tokens"):
                assert not answer.done()
            served.process.send_signal(signal.SIGTERM)
            assert vectors(answer.result()).shape == (120, 384)
        assert served.process.wait(30) == 0
        with pytest.raises((InferenceServerException, grpc.RpcError)):
            client.is_server_live()
