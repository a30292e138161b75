"""Does a served model give the vectors that its checkpoint gives?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import httpx

from assets_pkg.deploy.contract import DeployError
from resources.encoders.base import Role

if TYPE_CHECKING:
    import numpy as np

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-3, "int8_weights": 1e-2, "int8_dynamic": 1e-1}
"""Cosine distance to the checkpoint's vectors, by the numbers that the exported model computes with."""


def smoke_check(
    model_name: str, texts: Sequence[str], role: Role, expected: np.ndarray, dtype: str = "fp32"
) -> Callable[[str], None]:
    """A check that the server at a URL embeds ``texts`` as ``expected`` (float32 [n, d], unit length).

    The returned function raises DeployError when a vector is missing, not finite, or further from the expected
    one than ``TOLERANCES[dtype]``.
    """

    def check(url: str) -> None:
        import numpy as np

        body = {"model": model_name, "input": list(texts), "input_type": role, "truncate": "END"}
        answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60)
        if answer.status_code != 200:
            raise DeployError(f"smoke test: {url} answered {answer.status_code}: {answer.text[:300]}")
        served = np.array([item["embedding"] for item in answer.json()["data"]], dtype=np.float32)
        if served.shape != expected.shape or not np.isfinite(served).all():
            raise DeployError(f"smoke test: expected finite vectors {expected.shape}, got {served.shape}")
        distance = float((1 - (served * expected).sum(axis=1)).max())
        if distance > TOLERANCES[dtype]:
            raise DeployError(f"smoke test: served vectors are {distance:.2g} away from the checkpoint's")

    return check
