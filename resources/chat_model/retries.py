"""What a failed request means, and how long to wait before the next try."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
LONGEST_ASKED_S = 86_400.0

_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")

_AGAIN = frozenset({408, 409, 425, 429})
_FULL = frozenset({429, 503})
_EVERYWHERE = {
    401: "the key in {key} is refused: check it, or get a new one",
    402: "the account of the key in {key} has no credit",
    403: "the key in {key} may not use this model or endpoint",
    404: "there is no such model or path: check the model's name and base_url",
}


@dataclass(frozen=True)
class RequestFailure:
    """A request without an answer. ``again``: worth another try; ``full``: the endpoint has too much to do;
    ``fatal``: no other call will fare better."""

    detail: str
    again: bool = False
    full: bool = False
    fatal: bool = False
    refused: bool = False
    status: int | None = None
    retry_after_s: float | None = None


def failure_of_status(status: int, body: str, headers: Mapping[str, str], key_name: str) -> RequestFailure:
    """What an HTTP error means. ``body`` is quoted shortly; ``key_name`` is where the key comes from."""
    detail = f"HTTP {status}: {' '.join(body.split())[:300]}"
    if status in _EVERYWHERE:
        return RequestFailure(
            f"{_EVERYWHERE[status].format(key=key_name)} ({detail})", fatal=True, status=status
        )
    if 300 <= status < 400:
        return RequestFailure(
            f"redirects are not followed, set base_url to the target ({detail})", fatal=True
        )
    return RequestFailure(
        detail,
        again=status in _AGAIN or status >= 500,
        full=status in _FULL,
        status=status,
        retry_after_s=retry_after(headers),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait that the endpoint asked for (RFC 9110 section 10.2.3: seconds or a date); None where it asks for
    nothing, or for what cannot be meant: no number and no date, or more than a day."""
    value = headers.get("retry-after", "").strip()
    seconds = float(value) if _SECONDS.fullmatch(value) else _seconds_until(value)
    if seconds is None or seconds > LONGEST_ASKED_S:
        return None
    return max(0.0, seconds)


def _seconds_until(date: str) -> float | None:
    try:
        when = parsedate_to_datetime(date)
        return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def delay_before(attempt: int, failure: RequestFailure) -> float:
    """Seconds before try number ``attempt`` (from 1): exponential with full jitter, on top of what the
    endpoint asked for."""
    ceiling = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (attempt - 1))
    if failure.retry_after_s is not None:
        return failure.retry_after_s + random.uniform(0, min(1.0, ceiling))
    return random.uniform(ceiling / 10, ceiling)
