"""The exam through the served endpoint: does what clients get rank as well as the checkpoint did?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from assets_pkg.deploy.contract import DeployError
from assets_pkg.deploy.interface import AnswerError, Interface, NimInterface
from resources.encoders.base import Role
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

BATCH = 32
TRIES = 3
BUSY_TRIES = 10
BUSY_SECONDS = 1.0
TOLERANCE, TOLERANCE_BELOW_5 = 0.01, 0.03
"""The recipe's: one query moves a metric at a small cut-off further."""


class DriftError(Exception):
    """The served model measures differently from its checkpoint."""


@dataclass(frozen=True)
class Drift:
    """One metric on both sides; ``drift`` is served minus checkpoint."""

    metric: str
    checkpoint: float
    nim: float
    drift: float
    tolerance: float
    within: bool


class ServedEncoder:
    """An `Encoder` over a served model's endpoint that trusts no answer.

    The answer must name the model asked for and have each index once. A vector that is not numbers, not finite,
    zero or of another length is invalid: its text is asked for again, alone, at most three times; each is counted
    in ``invalid``.
    """

    def __init__(
        self, url: str, model: str, dimensions: int, identity: str, interface: Interface | None = None
    ):
        self.url = url
        self.model = model
        self.dimensions = dimensions
        self.invalid = 0
        self._identity = identity
        self._interface = interface or NimInterface()
        self._client = httpx2.Client(base_url=url, timeout=300)

    def identity(self, role: Role) -> str:
        return f"{self._identity}-{role}-{self.url}"

    def close(self) -> None:
        self._client.close()

    def embed(self, texts: Sequence[str], role: Role, progress: Progress = no_progress) -> Vectors:
        """Float32 [len(texts), dimensions], unit rows.

        Raises:
            DeployError: the server refused, answered for another model, or kept giving invalid vectors.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            for offset, row in enumerate(self._ask(batch, role)):
                vectors[start + offset] = self._valid(row, batch[offset], role)
            progress(min(start + BATCH, len(texts)), len(texts), "texts")
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _valid(self, row: Any, text: str, role: Role) -> Any:
        for _ in range(TRIES):
            if _is_vector(row, self.dimensions):
                return row
            self.invalid += 1
            row = self._ask([text], role)[0]
        if _is_vector(row, self.dimensions):
            return row
        raise DeployError(f"{self.url} gave an invalid vector {TRIES + 1} times for one text: {text[:80]!r}")

    def _ask(self, texts: Sequence[str], role: Role) -> list[Any]:
        answer = self._post(self._interface.body(self.model, texts, role))
        try:
            return self._interface.vectors(answer, self.model, len(texts))
        except AnswerError as error:
            raise DeployError(f"{self.url} {error}") from error

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._try(body)
        for _ in range(BUSY_TRIES):
            if answer.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(BUSY_SECONDS)
            answer = self._try(body)
        if answer.status_code != httpx2.codes.OK:
            raise DeployError(f"{self.url} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json()

    def _try(self, body: dict[str, Any]) -> httpx2.Response:
        try:
            return self._client.post(self._interface.path, json=body)
        except httpx2.HTTPError as error:
            raise DeployError(f"{self.url} does not answer: {error}") from error


def measure_drift(checkpoint: Mapping[str, float], served: Mapping[str, float]) -> list[Drift]:
    """Both sides' means (``NDCG@10``: value), metric by metric, with the recipe's tolerances."""
    rows: list[Drift] = []
    for metric, value in served.items():
        tolerance = TOLERANCE_BELOW_5 if int(metric.partition("@")[2]) < 5 else TOLERANCE
        drift = value - checkpoint[metric]
        rows.append(
            Drift(metric, checkpoint[metric], value, drift, tolerance, abs(drift) <= tolerance + 1e-9)
        )
    return rows


def require_no_drift(rows: Sequence[Drift]) -> None:
    """Raises `DriftError` naming each metric that is out of tolerance."""
    outside = [row for row in rows if not row.within]
    if outside:
        listed = ", ".join(f"{row.metric} {row.drift:+.4f} (tolerance {row.tolerance})" for row in outside)
        raise DriftError(
            f"the served model measures differently from its checkpoint: {listed}. Look at the server and the "
            "export; to go on regardless: eval.fail_on_nim_metric_drift=false"
        )


def add_to_results(folder: Path, earlier: Mapping[str, Any], rows: Sequence[Drift], invalid: int) -> None:
    """Complete ``eval_results.json`` in ``folder``, which has the served model's figures, with the ``earlier`` ones.

    So one file has ``base``, ``finetuned`` and ``nim``, as in the recipe; ``metadata.nim_drift`` has the drift.
    """
    path = folder / "eval_results.json"
    served: dict[str, Any] = json.loads(path.read_text("utf-8"))
    metadata = {
        **earlier.get("metadata", {}),
        **served["metadata"],
        "models": {**earlier.get("metadata", {}).get("models", {}), **served["metadata"]["models"]},
        "nim_drift": [asdict(row) for row in rows],
        "nim_invalid_vectors": invalid,
    }
    mrr = {**earlier.get("mrr", {}), **served["mrr"]}
    merged = {**earlier, **served, "mrr": mrr, "metadata": metadata}
    path.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", "utf-8")


def recorded_means(
    results: Mapping[str, Any], digest: str, eval_set: str, k_values: Sequence[int]
) -> dict[str, float] | None:
    """The means that an earlier measurement recorded for the model ``digest`` on the same exam, if it did."""
    metadata = results["metadata"]
    if metadata["eval_set"] != eval_set or metadata["k_values"] != sorted(set(k_values)):
        return None
    for name, measured in metadata["models"].items():
        if measured == digest:
            means: dict[str, float] = dict(results["mrr"][name])
            for family in results[name]:
                means |= family
            return means
    return None


def _is_vector(row: Any, dimensions: int) -> bool:
    import numpy as np

    if not isinstance(row, list) or len(row) != dimensions:
        return False
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in row):
        return False
    norm = float(np.linalg.norm(row))
    return bool(np.isfinite(norm) and norm > 0)
