"""Operations on embedding vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def truncate(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first ``dimensions`` components of unit vectors (float32 [n, d]), scaled to length 1: float32
    [n, dimensions]. A row whose first components are all zero stays zero.

    For models trained with Matryoshka Representation Learning (Kusupati et al. 2022, arXiv 2205.13147), whose leading
    dimensions are embeddings themselves.
    """
    import numpy as np

    if dimensions == vectors.shape[1]:
        return vectors
    leading = vectors[:, :dimensions]
    norms = np.linalg.norm(leading, axis=1, keepdims=True)
    return leading / np.maximum(norms, np.finfo(np.float32).tiny)
