"""NVIDIA's LangChain client with its default settings, and Schemathesis on the server's own description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import schemathesis
from huggingface_hub import InferenceClient
from hypothesis import given
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
from schemathesis import GenerationMode

from tests.described_api import TRIED, described_checks

pytestmark = pytest.mark.slow

LANGCHAIN_BATCH = 50
"""How many texts the client sends together by default: more than NIM's own limit of 30."""


@pytest.fixture(scope="module")
def wide(start: Any) -> Any:
    """A server as the deploy stage sets it up: requests of many texts are taken."""
    with start(NIM_MAX_CLIENT_BATCH_SIZE="2048", RETUNE_DRAIN_GRACE_S="0") as running:
        yield running


@pytest.fixture
def langchain(wide: Any) -> NVIDIAEmbeddings:
    return NVIDIAEmbeddings(base_url=f"{wide.url}/v1", model="retune/minilm")


def test_langchain_embeds_documents_in_its_default_batches(langchain: NVIDIAEmbeddings, oracle: Any) -> None:
    texts = [f"document {number}" for number in range(LANGCHAIN_BATCH + 3)]
    vectors = np.array(langchain.embed_documents(texts))
    expected = oracle([f"passage: {text}" for text in texts])
    np.testing.assert_allclose((vectors * expected).sum(axis=1), 1, atol=1e-5)


def test_langchain_embeds_a_query(langchain: NVIDIAEmbeddings, oracle: Any) -> None:
    vector = np.array(langchain.embed_query("what is it?"))
    assert vector @ oracle(["query: what is it?"])[0] == pytest.approx(1, abs=1e-5)


def test_langchain_finds_the_model_by_itself(wide: Any, oracle: Any) -> None:
    found = NVIDIAEmbeddings(base_url=f"{wide.url}/v1")
    assert found.model == "retune/minilm"
    assert np.array(found.embed_query("a")) @ oracle(["query: a"])[0] == pytest.approx(1, abs=1e-5)


def test_langchain_shows_the_servers_message(langchain: NVIDIAEmbeddings) -> None:
    with pytest.raises(Exception, match="exceeds maximum allowed token size 256"):
        langchain.embed_query("word " * 1000)


def test_hugging_faces_client(wide: Any, oracle: Any) -> None:
    found = InferenceClient(wide.url).feature_extraction(["a text"], truncate=True)
    assert found[0] @ oracle(["passage: a text"])[0] == pytest.approx(1, abs=1e-5)


def test_no_request_that_the_description_allows_or_forbids_breaks_the_server(wide: Any) -> None:
    """Generated requests, right and wrong, on every path: no 5xx, and every answer as described."""
    schema = schemathesis.openapi.from_url(f"{wide.url}/openapi.json")
    chosen = described_checks()
    paths = set()
    for operation in (found.ok() for found in schema.get_all_operations()):
        paths.add(operation.path)
        _try(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), chosen)
        if operation.method == "post":  # the others have nothing to get wrong
            _try(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), chosen)
    assert "/v1/embeddings" in paths
    assert len(paths) >= 8


def _try(cases: Any, checks: list[Any]) -> None:
    @TRIED
    @given(case=cases)
    def call(case: Any) -> None:
        case.call_and_validate(checks=checks)

    call()
