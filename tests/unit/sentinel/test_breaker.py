"""The breaker opens, waits longer each time, lets one probe through, and closes."""

from __future__ import annotations

import asyncio
import random

import pytest

from sentinel.breaker import Breaker, BreakerState
from sentinel.clock import ManualClock, SystemClock
from sentinel.errors import SlowDownError, UnavailableError

AWAY = UnavailableError("away")


def _breaker(clock: ManualClock, seen: list[BreakerState] | None = None) -> Breaker:
    return Breaker(
        "guard",
        clock=clock,
        failures=3,
        pause_base=1.0,
        pause_cap=8.0,
        rng=random.Random(1),
        on_change=seen.append if seen is not None else None,
    )


def _state(breaker: Breaker) -> BreakerState:
    # Through a function, or mypy believes that the state never changes.
    return breaker.state


def _open(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.record_failure(AWAY)


def test_opens_on_failures_in_a_row_only() -> None:
    breaker = _breaker(ManualClock())
    for _ in range(5):
        breaker.record_failure(AWAY)
        breaker.record_failure(AWAY)
        breaker.record_success()
    assert _state(breaker) is BreakerState.CLOSED
    _open(breaker)
    assert _state(breaker) is BreakerState.OPEN
    assert breaker.reason == "away"
    assert breaker.opened_total == 1
    assert not breaker.allow()


def test_one_probe_after_the_pause_closes_it() -> None:
    clock, seen = ManualClock(), list[BreakerState]()
    breaker = _breaker(clock, seen)
    _open(breaker)
    clock.advance(breaker.retry_in)
    assert breaker.allow()
    assert _state(breaker) is BreakerState.HALF_OPEN
    assert not breaker.allow()
    breaker.record_success()
    assert breaker.allow()
    assert breaker.retry_in == 0
    assert breaker.opened_at is None
    assert seen == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


def test_pauses_grow_to_the_cap_and_start_over() -> None:
    clock = ManualClock()
    breaker = _breaker(clock)
    _open(breaker)
    pauses = []
    for step in (1, 2, 4, 8, 8, 8):
        pauses.append(breaker.retry_in)
        assert step / 2 <= breaker.retry_in <= step
        clock.advance(breaker.retry_in)
        assert breaker.allow()
        breaker.record_failure(AWAY)
    assert len(set(pauses)) == len(pauses)
    assert breaker.opened_total == 1
    clock.advance(8)
    assert breaker.allow()
    breaker.record_success()
    _open(breaker)
    assert breaker.retry_in <= 1
    assert breaker.opened_total == 2


def test_slow_down_opens_at_once_for_as_long_as_asked() -> None:
    clock = ManualClock()
    breaker = _breaker(clock)
    breaker.record_failure(SlowDownError("less", retry_after=120.0))
    assert _state(breaker) is BreakerState.OPEN
    clock.advance(119.9)
    assert not breaker.allow()
    clock.advance(0.2)
    assert breaker.allow()


def test_late_answers_of_earlier_calls_do_not_move_an_open_breaker() -> None:
    clock = ManualClock()
    breaker = _breaker(clock)
    _open(breaker)
    pause = breaker.retry_in
    breaker.record_success()
    breaker.record_failure(AWAY)
    assert _state(breaker) is BreakerState.OPEN
    assert breaker.retry_in == pause


def test_a_probe_that_never_reports_is_given_up() -> None:
    clock = ManualClock()
    breaker = _breaker(clock)
    _open(breaker)
    clock.advance(1)
    assert breaker.allow()
    clock.advance(7.9)
    assert not breaker.allow()
    clock.advance(0.2)
    assert breaker.allow()


async def test_call_records_and_refuses() -> None:
    breaker = _breaker(ManualClock())
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise AWAY

    async def work() -> str:
        return "done"

    assert await breaker.call(work) == "done"
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await breaker.call(fail)
    assert calls == 3


async def test_other_errors_say_nothing_about_the_other_side() -> None:
    breaker = _breaker(ManualClock())

    async def bug() -> None:
        raise KeyError("x")

    for _ in range(5):
        with pytest.raises(KeyError):
            await breaker.call(bug)
    assert _state(breaker) is BreakerState.CLOSED


async def test_watch_probes_until_it_works_and_wakes_waiters() -> None:
    breaker = Breaker("guard", clock=SystemClock(), failures=1, pause_base=0.01, pause_cap=0.02)
    answers: list[Exception | bool] = [
        UnavailableError("still away"),
        False,
        SlowDownError("less", 0.01),
        True,
    ]
    probes = 0

    async def probe() -> bool:
        nonlocal probes
        answer = answers[probes]
        probes += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    watcher = asyncio.create_task(breaker.watch(probe))
    await breaker.wait_closed()
    assert probes == 0
    breaker.record_failure(AWAY)
    waiters = [asyncio.create_task(breaker.wait_closed()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    await asyncio.wait_for(asyncio.gather(*waiters), 60)
    assert probes == 4
    assert _state(breaker) is BreakerState.CLOSED
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher


async def test_watch_sleeps_while_closed() -> None:
    breaker = Breaker("guard", clock=SystemClock(), failures=1, pause_base=0.01, pause_cap=0.02)

    async def probe() -> bool:
        raise AssertionError("nothing to probe")

    watcher = asyncio.create_task(breaker.watch(probe))
    await asyncio.sleep(0.05)
    assert not watcher.done()
    watcher.cancel()
