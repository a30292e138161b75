"""A matrix on the vectors of queries alone, so that a model is tuned and the vectors of passages stay."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from assets_pkg.nim.manifest import QUERY_MAP_FILE, FolderError
from assets_pkg.nim.model import Vectors


class QueryMap:
    """Maps unit vectors to unit vectors.

    Args:
        matrix: float32 [dimensions, dimensions]; a vector is multiplied by it from the left.
    """

    def __init__(self, matrix: Vectors) -> None:
        self._transposed = np.ascontiguousarray(matrix.T)

    def apply(self, vectors: Vectors) -> Vectors:
        """float32 [rows, dimensions], rows of length 1, to the same."""
        mapped = vectors @ self._transposed
        return cast(Vectors, mapped / np.linalg.norm(mapped, axis=1, keepdims=True))


def read_query_map(folder: Path, dimensions: int) -> QueryMap | None:
    """The query map of an exported folder, if it has one.

    Raises:
        FolderError: it is no matrix for vectors of so many dimensions.
    """
    path = folder / QUERY_MAP_FILE
    if not path.is_file():
        return None
    try:
        matrix = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    if (
        matrix.shape != (dimensions, dimensions)
        or matrix.dtype != np.float32
        or not np.isfinite(matrix).all()
    ):
        raise FolderError(
            f"{path} is {matrix.dtype} {list(matrix.shape)}, not finite float32 {[dimensions, dimensions]}"
        )
    return QueryMap(matrix)
