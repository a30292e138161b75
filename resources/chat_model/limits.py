"""How fast and how many at once: a paced rate, and a concurrency that is reduced when the endpoint is overloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

LONGEST_SPREAD_S = 0.02


class Pace:
    """Spaces requests evenly under a rate per minute of requests and of tokens.

    Even spacing (no burst) keeps under fixed and sliding windows alike. ``pause`` delays all requests, for
    when the endpoint asks for a wait.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None):
        self._request_gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_gap = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = 0.0
        self._next_token = 0.0
        self._paused_until = 0.0
        self._spread = 0.0

    async def wait(self, tokens: int) -> None:
        """Return when a request of about ``tokens`` tokens may be sent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        slot = max(now, self._next_request, self._next_token)
        self._next_request = slot + max(self._request_gap, self._spread)
        self._next_token = slot + tokens * self._token_gap
        while (wake := max(slot, self._paused_until)) > loop.time():
            await asyncio.sleep(wake - loop.time())

    def settle(self, estimated: int, used: int) -> None:
        """Correct the token rate by what a request really used."""
        self._next_token += (used - estimated) * self._token_gap

    def spread(self, latency: float, at_once: float) -> None:
        """Keep requests apart that would otherwise stay a bunch: sent together, answered together, each waiting
        for the work on all others while the endpoint has none. Half of the even distance costs no speed."""
        self._spread = min(LONGEST_SPREAD_S, latency / at_once / 2)

    def pause(self, seconds: float) -> None:
        """Send nothing for ``seconds`` from now."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)


class AdaptiveGate:
    """At most ``most`` requests at once; half as many after each wave of "too many", one more per round of
    successes (additive increase, multiplicative decrease, as TCP does: Jacobson 1988)."""

    def __init__(self, most: int):
        self._most = most
        self.limit = float(most)
        self._running = 0
        self._changed = asyncio.Condition()
        self._cut_at = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Hold one of the slots."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < int(self.limit))
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._changed:
                self._changed.notify(2)  # the slot that was freed, and one that a success may have added

    def slow_down(self, sent_at: float) -> None:
        """The endpoint was full. Requests sent before the last reduction are not counted."""
        if sent_at >= self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = asyncio.get_running_loop().time()

    def speed_up(self) -> None:
        """A request went through."""
        self.limit = min(float(self._most), self.limit + 1 / self.limit)
