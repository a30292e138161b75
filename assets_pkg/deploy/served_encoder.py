"""The deployed server as an encoder that checks every answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2

from assets_pkg.deploy.interface import Interface, NimInterface
from assets_pkg.deploy.server_client import KEY_VARIABLE, server_client
from assets_pkg.deploy.server_state import DeployError
from resources.encoders.base import Role
from resources.encoders.service_calls import AnswerError, RetryPolicy, as_vector, json_value, post
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

TIMEOUT_S = 300.0
BATCH = 32
CONCURRENT = 4
"""Requests in progress: enough that the server always has the next batch queued."""

TRIES = 3
WHILE_BUSY = RetryPolicy(frozenset({503}), first_s=0.2, longest_s=5.0, patience_s=120.0)


def _always() -> None:
    """For callers who do not check which model answers."""


class ServedEncoder:
    """An `Encoder` over a served model's endpoint that checks every answer.

    The answer must name the requested model and have each index once. A vector that is not numbers, not finite,
    zero or of another length is invalid: its text is requested again, alone, at most three times; each is counted
    in ``invalid``. Requests to a busy server (503) are repeated for two minutes. They bear the key of the environment
    (``RETUNE_API_KEY``).

    Args:
        identity: names the served model; see `Encoder.identity`.
        interface: the server's; NIM's by default.
        prove: called before and after each :meth:`embed`; raises when another model answers at ``url``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        dimensions: int,
        identity: str,
        interface: Interface | None = None,
        prove: Callable[[], None] = _always,
    ):
        self.url = url
        self.model = model
        self.dimensions = dimensions
        self.invalid = 0
        self._identity = identity
        self._interface = interface or NimInterface()
        self._prove = prove
        self._client = server_client(url, TIMEOUT_S)

    def identity(self, role: Role) -> str:
        return f"{self._identity}-{role}"

    def close(self) -> None:
        self._client.close()

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        """Float32 [len(texts), dimensions], unit rows.

        Raises:
            DeployError: the server refused, answered for another model, or kept giving invalid vectors.
        """
        import numpy as np

        self._prove()
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        starts = range(0, len(texts), BATCH)
        pool = ThreadPoolExecutor(CONCURRENT, thread_name_prefix="served")
        try:
            answers = pool.map(lambda start: self._embed(texts[start : start + BATCH], role), starts)
            for start, rows in zip(starts, answers, strict=True):
                vectors[start : start + BATCH] = rows
                progress(start + len(rows), len(texts), "texts")
        finally:  # after a failure nothing further is worth asking for
            pool.shutdown(cancel_futures=True)
        self._prove()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _embed(self, batch: Sequence[str], role: Role) -> list[Vectors]:
        answered = self._ask(batch, role)
        return [self._valid(row, text, role) for row, text in zip(answered, batch, strict=True)]

    def _valid(self, row: Any, text: str, role: Role) -> Vectors:
        for tries in range(TRIES + 1):
            vector = as_vector(row, self.dimensions)
            if vector is not None:
                return vector
            if tries < TRIES:
                self.invalid += 1
                row = self._ask([text], role)[0]
        raise DeployError(f"{self.url} gave an invalid vector {TRIES + 1} times for one text: {text[:80]!r}")

    def _ask(self, texts: Sequence[str], role: Role) -> list[Any]:
        answer = self._post(self._interface.body(self.model, texts, role))
        try:
            return self._interface.vectors(answer, self.model, len(texts))
        except AnswerError as error:
            raise DeployError(f"{self.url} {error}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            answer = post(self._client, self._interface.path, body, WHILE_BUSY)
        except httpx2.HTTPError as error:
            raise DeployError(f"{self.url} does not answer: {error}") from error
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            raise DeployError(
                f"{self.url} demands another key than the one in {KEY_VARIABLE}: set {KEY_VARIABLE} to the key that "
                "the server was deployed with, or run `retune deploy` again"
            )
        if answer.status_code != httpx2.codes.OK:
            raise DeployError(f"{self.url} answered {answer.status_code}: {answer.text[:300]}")
        return json_value(answer)
