"""Small truths about unit vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def leading(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first ``dimensions`` components of unit vectors (float32 [n, d]), unit length again (a row of zeros stays
    zeros).

    What a model trained with Matryoshka Representation Learning (Kusupati et al. 2022) is cut to.
    """
    import numpy as np

    if dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    return cut / np.maximum(norms, np.finfo(np.float32).tiny)
