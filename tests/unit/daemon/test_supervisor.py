"""Who may be silent for how long, and what the watchdog hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from daemon.supervisor import Supervisor
from sentinel.clock import ManualClock
from sentinel.notify import Notifier
from tests.support.waiting import wait_until


class Heard(Notifier):
    """A manager in the same process."""

    def __init__(self) -> None:
        super().__init__(None)
        self.messages: list[str] = []

    def _send(self, message: str) -> None:
        self.messages.append(message)

    def count(self) -> int:
        return self.messages.count("WATCHDOG=1")


@dataclass
class Bench:
    clock: ManualClock = field(default_factory=ManualClock)
    heard: Heard = field(default_factory=Heard)
    lags: list[float] = field(default_factory=list)
    status: Callable[[], str] = lambda: "ready"

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            {"poller": 10.0, "writer": 60.0},
            clock=self.clock,
            notifier=self.heard,
            watchdog_s=0.02,
            loop_lag=self.lags.append,
            status=self._say,
        )
        self.poller = self.supervisor.ticker("poller")
        self.writer = self.supervisor.ticker("writer")

    def _say(self) -> str:
        return self.status()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def rounds(self, number: int = 3) -> None:
        """Wait until the supervisor has looked so many times."""
        target = len(self.lags) + number
        await wait_until(lambda: len(self.lags) >= target, interval=0.005)


def test_nobody_is_silent_at_the_start() -> None:
    assert Bench().supervisor.silent() == frozenset()


def test_each_has_its_own_deadline() -> None:
    bench = Bench()
    bench.clock.advance(10.0)
    assert bench.supervisor.silent() == frozenset()
    bench.clock.advance(0.1)
    assert bench.supervisor.silent() == {"poller"}
    bench.clock.advance(50)
    assert bench.supervisor.silent() == {"poller", "writer"}
    bench.poller()
    assert bench.supervisor.silent() == {"writer"}


def test_an_unknown_name_has_no_ticker() -> None:
    with pytest.raises(KeyError):
        Bench().supervisor.ticker("guard")


async def test_the_watchdog_starves_while_a_part_is_silent_and_is_fed_again() -> None:
    bench = Bench()
    async with bench.running():
        await bench.rounds()
        fed = bench.heard.count()
        assert fed >= 2
        bench.clock.advance(11)
        await bench.rounds(1)  # the look under way may have begun before
        starved = bench.heard.count()
        await bench.rounds(5)
        assert bench.heard.count() == starved
        bench.poller()
        await bench.rounds()
        assert bench.heard.count() > starved


async def test_the_status_is_sent_only_when_it_changes() -> None:
    bench = Bench()
    async with bench.running():
        await bench.rounds()
        bench.status = lambda: "not ready: the guard is away"
        await bench.rounds()
    sent = [message for message in bench.heard.messages if message.startswith("STATUS=")]
    assert sent == ["STATUS=ready", "STATUS=not ready: the guard is away"]


async def test_lag_of_the_loop_is_measured() -> None:
    bench = Bench()
    async with bench.running():
        await bench.rounds(1)
        bench.clock.advance(3)
        await bench.rounds(2)
    assert max(bench.lags) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("watchdog_s", "interval"), [(None, 1.0), (30.0, 1.0), (1.0, 0.5)])
def test_it_looks_at_least_twice_within_the_watchdogs_limit(
    watchdog_s: float | None, interval: float
) -> None:
    made = Supervisor(
        {}, clock=ManualClock(), notifier=Heard(), watchdog_s=watchdog_s, loop_lag=print, status=str
    )
    assert made._interval == interval
