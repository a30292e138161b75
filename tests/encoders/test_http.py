"""What a service answers to an encoder behind HTTP, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.encoders.dialects import read_vectors
from resources.encoders.http import HttpEncoder, ServiceError
from resources.encoders.service_calls import AnswerError
from resources.models.entry import ModelEntry

NAN = float("nan")


def embedded(answer: Any, texts: int = 1, content: bytes | None = None) -> np.ndarray:
    body = json.dumps(answer).encode() if content is None else content
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body))
    entry = ModelEntry(adapter="http", dialect="openai", base_url="http://127.0.0.1:1/v1")
    return HttpEncoder("m", entry, transport=transport).embed(["text"] * texts, "passage")


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]},
        {"data": [{"embedding": [3, 4]}, {"embedding": [0, 2]}]},
        {"embeddings": [[3, 4], [0, 2]]},
        {"embeddings": {"float": [[3, 4], [0, 2]], "int8": None}},
        {"data": [[3, 4], [0, 2]]},
    ],
)
def test_the_forms_of_vectors(answer: Any) -> None:
    np.testing.assert_allclose(embedded(answer, 2), [[0.6, 0.8], [0, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        5,
        {},
        {"data": {}},
        {"data": [{"index": 0}]},
        {"data": [{"index": None, "embedding": [1, 0]}]},
        {"data": [{"index": "x", "embedding": [1, 0]}]},
        {"data": [{"index": 0, "embedding": None}]},
        {"data": [{"index": 0, "embedding": "AAAA"}]},
        {"data": [{"index": 0, "embedding": {"a": 1}}]},
        {"data": [{"index": 0, "embedding": [[1, 0]]}]},
        {"data": [{"index": 0, "embedding": [NAN, 0]}]},
        {"data": [{"index": 0, "embedding": [1e300, 0]}]},
        {"data": [{"index": 0, "embedding": [10**400, 0]}]},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": [1, 0]}, None]},
        {"data": [{"index": 0, "embedding": [1, 0]}, {"index": 1, "embedding": [1, 0]}]},
        {"embeddings": [[1, 0], 5]},
        {"embedding": [None, 1]},
        {"embeddings": {"float": "x"}},
    ],
)
def test_an_answer_without_the_vectors_is_an_error_that_names_the_service(answer: Any) -> None:
    with pytest.raises(ServiceError, match=r"m at http://127\.0\.0\.1:1/v1"):
        embedded(answer)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"9" * 5000])
def test_an_answer_that_is_not_json_is_an_error_that_names_the_service(content: bytes) -> None:
    with pytest.raises(ServiceError, match=r"m at http://127\.0\.0\.1:1/v1"):
        embedded(None, content=content)


def test_vectors_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ServiceError, match=r"m at http://127\.0\.0\.1:1/v1"):
        embedded({"embeddings": [[1, 0], [1, 0, 0]]}, 2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "embedding", "embeddings", "float", "index"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_a_service_answers_it_is_read_or_refused(answer: Any) -> None:
    try:
        rows = read_vectors(answer, 1)
    except AnswerError:
        return
    assert all(isinstance(value, float) for value in rows[0])
