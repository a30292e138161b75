"""Truncation to leading dimensions is one operation, wherever it is done."""

from __future__ import annotations

import numpy as np
import pytest

from assets_pkg.nim import schemas as server
from storage.vectors import truncate


def test_leading_dimensions_are_scaled_to_length_1() -> None:
    vectors = np.array([[0.6, 0.0, 0.8], [0.48, 0.64, 0.6]], dtype=np.float32)
    found = truncate(vectors, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1, 0], [0.6, 0.8]], atol=1e-7)
    assert truncate(vectors, 3) is vectors


def test_a_row_without_leading_dimensions_stays_zero() -> None:
    found = truncate(np.eye(3, dtype=np.float32), 2)
    assert found.tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("dimensions", [1, 8, 64])
def test_the_server_truncates_the_same_way(dimensions: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(truncate(vectors, dimensions), server.truncate(vectors, dimensions))
