"""Rates and concurrency on a clock that runs ahead whenever everybody waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from resources.chat_model.limits import LONGEST_SPREAD_S, AdaptiveGate, Pace


class _Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by waiting, and then at once."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: _Clock):
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop._now += timeout or 0.0
        return super().select(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Clock) as runner:
        runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_requests_are_spaced_evenly() -> None:
    async def main() -> None:
        pace, sent = Pace(40, None), []

        async def one() -> None:
            await pace.wait(tokens=1000)
            sent.append(now())

        await asyncio.gather(*(one() for _ in range(5)))
        assert sent == pytest.approx([0, 1.5, 3.0, 4.5, 6.0])

    run(main())


def test_tokens_are_spaced_by_their_number_and_corrected() -> None:
    async def main() -> None:
        pace = Pace(None, 6000)
        await pace.wait(tokens=1000)
        await pace.wait(tokens=100)
        assert now() == pytest.approx(10)
        pace.settle(estimated=100, used=300)
        await pace.wait(tokens=1)
        assert now() == pytest.approx(13)

    run(main())


def test_a_pause_holds_those_back_who_already_wait() -> None:
    async def main() -> None:
        pace = Pace(60, None)
        await pace.wait(1)
        waiting = asyncio.create_task(pace.wait(1))
        await asyncio.sleep(0.5)
        pace.pause(10)
        await waiting
        assert now() == pytest.approx(10.5)

    run(main())


def test_without_limits_nobody_waits() -> None:
    async def main() -> None:
        pace = Pace(None, None)
        for _ in range(100):
            await pace.wait(10_000)
        assert now() == 0

    run(main())


def test_a_bunch_dissolves_to_half_the_even_distance() -> None:
    async def main() -> None:
        pace = Pace(None, None)
        pace.spread(latency=0.2, at_once=8)
        for _ in range(9):
            await pace.wait(1)
        assert now() == pytest.approx(8 * 0.0125)
        pace.spread(latency=30, at_once=4)
        await pace.wait(1)
        started = now()
        await pace.wait(1)
        assert now() - started == pytest.approx(LONGEST_SPREAD_S)

    run(main())


def test_the_gate_halves_once_per_wave_and_recovers() -> None:
    async def main() -> None:
        gate, at_once = AdaptiveGate(8), [0, 0]

        async def one(full: bool) -> None:
            async with gate.slot():
                at_once[0] += 1
                at_once[1] = max(at_once)
                sent_at = now()
                await asyncio.sleep(1)
                if full:
                    gate.slow_down(sent_at)
                else:
                    gate.speed_up()
                at_once[0] -= 1

        await asyncio.gather(*(one(full=True) for _ in range(8)))
        assert (at_once[1], gate.limit) == (8, 4.0)
        at_once[1] = 0
        await asyncio.gather(*(one(full=False) for _ in range(4)))
        assert at_once[1] == 4
        assert 4.5 < gate.limit < 5
        await asyncio.gather(*(one(full=False) for _ in range(100)))
        assert (at_once[1], gate.limit) == (8, 8.0)

    run(main())


def test_the_gate_never_shuts() -> None:
    async def main() -> None:
        gate = AdaptiveGate(4)
        for _ in range(10):
            await asyncio.sleep(1)
            gate.slow_down(now())
        assert gate.limit == 1.0
        async with gate.slot():
            pass

    run(main())
