"""A wait for another side shows signs of life, but not for ever."""

from __future__ import annotations

import asyncio

import pytest

from consumers.patience import waiting
from tests.support.loop_bench import A, Bench
from tests.support.waiting import wait_until


async def test_a_wait_ticks_until_it_ends() -> None:
    ticks: list[None] = []
    with waiting(lambda: ticks.append(None), every_s=0.01):
        assert len(ticks) == 1
        await wait_until(lambda: len(ticks) >= 4, interval=0.002)
    seen = len(ticks)
    await asyncio.sleep(0.05)
    assert len(ticks) == seen


async def test_a_wait_without_end_falls_silent() -> None:
    ticks: list[None] = []
    with waiting(lambda: ticks.append(None), limit_s=0.03, every_s=0.01):
        await asyncio.sleep(0.5)
        seen = len(ticks)
        await asyncio.sleep(0.1)
        assert len(ticks) == seen


async def test_a_log_that_never_answers_is_no_stuck_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker behind a silent firewall: joining hangs for longer than the poller's deadline."""
    monkeypatch.setattr("consumers.patience._EVERY_S", 0.01)
    bench = Bench({A: 3})
    answered = asyncio.Event()
    start = bench.source.start

    async def hanging(*listeners: object) -> None:
        await answered.wait()
        await start(*listeners)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.source, "start", hanging)
    async with bench.running():
        await bench.turns(10)
        assert not bench.loop.joined
        answered.set()
        await bench.handed(3)
