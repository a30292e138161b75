"""What every encoder behind HTTP shares: requests that are retried, and vectors read from answers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from resources.chat_model.retries import retry_after
from storage.errors import RetuneError

if TYPE_CHECKING:
    import httpx2
    import numpy as np
    import tenacity
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


class AnswerError(RetuneError, ValueError):
    """An answer does not have the vectors that were asked for; the message says what is wrong with it."""


@dataclass(frozen=True)
class RetryPolicy:
    """Which requests are sent again, and when to give up.

    Attributes:
        statuses: HTTP statuses after which the same request may succeed.
        first_s, longest_s: the wait before the second try, doubled for each further one up to the longest.
        tries: the most requests in all; no limit where None.
        patience_s: seconds from the first request after which no further one is sent; no limit where None.
        network_errors: whether a request that got no answer is sent again.
        honour_retry_after: whether a wait is at least what the service asks for, up to ``longest_s``.
    """

    statuses: frozenset[int]
    first_s: float
    longest_s: float
    tries: int | None = None
    patience_s: float | None = None
    network_errors: bool = False
    honour_retry_after: bool = False


def post(
    client: httpx2.Client, url: str, body: Any, policy: RetryPolicy, headers: Mapping[str, str] | None = None
) -> httpx2.Response:
    """Send ``body`` as JSON, again where the policy says so; the last answer, whatever its status.

    Raises:
        httpx2.HTTPError: the last request got no answer.
    """
    import httpx2
    import tenacity

    again = tenacity.retry_if_result(lambda reply: reply.status_code in policy.statuses)
    retrying = tenacity.Retrying(
        retry=again | tenacity.retry_if_exception_type(httpx2.TransportError)
        if policy.network_errors
        else again,
        stop=tenacity.stop_any(
            *([tenacity.stop_after_attempt(policy.tries)] if policy.tries else []),
            *([tenacity.stop_before_delay(policy.patience_s)] if policy.patience_s else []),
        ),
        wait=lambda state: _wait(state, policy),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    return retrying(lambda: client.post(url, json=body, headers=headers))


def _wait(state: tenacity.RetryCallState, policy: RetryPolicy) -> float:
    """Seconds until the next try."""
    planned = min(policy.longest_s, policy.first_s * 2 ** (state.attempt_number - 1))
    outcome = state.outcome
    if not policy.honour_retry_after or outcome is None or outcome.failed:
        return planned
    return min(max(planned, retry_after(outcome.result().headers) or 0.0), policy.longest_s)


def json_value(reply: httpx2.Response) -> Any:
    """The value of a JSON answer; None where it is not JSON."""
    try:
        return reply.json()
    except (ValueError, RecursionError):
        return None


def as_vector(row: Any, dimensions: int) -> Vector | None:
    """The vector (float32 [dimensions]) that a service sent as base64 or as a list of numbers; None where it is of
    another length, zero, not finite or something else."""
    import numpy as np

    if isinstance(row, str):
        try:
            row = np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4")
        except (binascii.Error, ValueError):
            return None
    elif not isinstance(row, list) or not all(
        type(value) in (int, float) for value in cast("list[Any]", row)
    ):
        return None
    try:
        vector: Vector = np.asarray(row, dtype=np.float32)
    except OverflowError:  # an integer beyond every float
        return None
    return vector if len(vector) == dimensions and has_direction(vector).all() else None


def has_direction(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each vector (float32 [..., d]) is finite and not zero, so that it can be scaled to length 1: bool
    [..., 1]."""
    import numpy as np

    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.isfinite(norms) & (norms > 0)
