"""Does a served model give the vectors that its checkpoint gives?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import httpx2

from assets_pkg.deploy.contract import DeployError
from assets_pkg.deploy.interface import AnswerError, Interface, NimInterface, as_vector
from resources.encoders.base import Role

if TYPE_CHECKING:
    import numpy as np

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-3, "int8_weights": 1e-2, "int8_dynamic": 1e-1}
"""Cosine distance to the checkpoint's vectors, by the numbers that the exported model computes with."""


def smoke_check(
    model_name: str,
    texts: Sequence[str],
    role: Role,
    expected: np.ndarray,
    dtype: str = "fp32",
    interface: Interface | None = None,
) -> Callable[[str], None]:
    """A check that the server at a URL embeds ``texts`` as ``expected`` (float32 [n, d], unit length).

    The returned function raises DeployError when a vector is missing, not finite, or further from the expected
    one than ``TOLERANCES[dtype]``. ``interface``: how the server is asked, NIM's way unless said.
    """
    ask = interface or NimInterface()

    def check(url: str) -> None:
        import numpy as np

        answer = httpx2.post(url + ask.path, json=ask.body(model_name, texts, role), timeout=60)
        if answer.status_code != 200:
            raise DeployError(f"smoke test: {url} answered {answer.status_code}: {answer.text[:300]}")
        try:
            rows = ask.vectors(answer.json(), model_name, len(texts))
        except AnswerError as error:
            raise DeployError(f"smoke test: {url} {error}") from error
        vectors = [as_vector(row, expected.shape[1]) for row in rows]
        sound = [vector for vector in vectors if vector is not None]
        if len(sound) < len(expected):
            wanted = f"{len(expected)} finite vectors of {expected.shape[1]} numbers"
            raise DeployError(f"smoke test: expected {wanted}, {len(sound)} of them came")
        served = np.stack(sound)
        distance = float((1 - (served * expected).sum(axis=1)).max())
        if distance > TOLERANCES[dtype]:
            raise DeployError(f"smoke test: served vectors are {distance:.2g} away from the checkpoint's")

    return check
