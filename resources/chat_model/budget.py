"""What a session has used, and the limits on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from resources.chat_model.config import ChatConfig
from resources.chat_model.errors import BudgetReachedError


@dataclass
class Usage:
    """What a session asked for. ``requests`` went over the wire, ``calls`` of them were answered, ``reused``
    answers came from the cache. ``cost`` is None where no prices are set."""

    requests: int = 0
    calls: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Budget:
    """Lets a request through only if its worst case still fits.

    While others are under way a request that does not fit waits, because they may use less than they
    reserved. Every request counts as a call, a retried one too.
    """

    def __init__(self, config: ChatConfig):
        self._config = config
        self._in_price = (config.input_price or 0.0) / 1e6
        self._out_price = (config.output_price or 0.0) / 1e6
        self.usage = Usage()
        if config.input_price is not None and config.output_price is not None:
            self.usage.cost = 0.0
        self._reserved: list[tuple[int, int]] = []
        self._settled = asyncio.Condition()

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, int]:
        """Set the worst case of one request aside.

        Raises:
            BudgetReachedError: it does not fit, and no request in progress can free enough for it.
        """
        request = (prompt_tokens, completion_tokens)
        async with self._settled:
            while (limit := self._exceeded_by(request)) is not None:
                if limit.startswith("max_calls") or not self._reserved:
                    raise BudgetReachedError(self._message(limit))
                await self._settled.wait()
            self._reserved.append(request)
            self.usage.requests += 1
        return request

    async def settle(self, request: tuple[int, int], used: tuple[int, int] | None) -> None:
        """Replace a reservation by what was used: (prompt, completion) tokens, None for no answer."""
        async with self._settled:
            self._reserved.remove(request)
            if used is not None:
                self.usage.calls += 1
                self.usage.prompt_tokens += used[0]
                self.usage.completion_tokens += used[1]
                if self.usage.cost is not None:
                    self.usage.cost += self._price(*used)
            self._settled.notify_all()

    def _price(self, prompt: int, completion: int) -> float:
        return prompt * self._in_price + completion * self._out_price

    def _exceeded_by(self, request: tuple[int, int]) -> str | None:
        config, pending = self._config, [*self._reserved, request]
        if config.max_calls is not None and self.usage.requests + 1 > config.max_calls:
            return f"max_calls = {config.max_calls}"
        tokens = self.usage.tokens + sum(map(sum, pending))
        if config.max_tokens is not None and tokens > config.max_tokens:
            return f"max_tokens = {config.max_tokens}"
        cost = (self.usage.cost or 0.0) + sum(self._price(*one) for one in pending)
        if config.max_cost is not None and cost > config.max_cost:
            return f"max_cost = {config.max_cost:g}"
        return None

    def _message(self, limit: str) -> str:
        usage = self.usage
        cost = "" if usage.cost is None else f", cost {usage.cost:.2f}"
        return (
            f"stopped before going over {limit}: {usage.requests} calls, {usage.tokens} tokens{cost} in this run. "
            "Every answer is kept: run the same command again to go on from here, with a new budget"
        )
