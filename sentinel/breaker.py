"""A circuit breaker: while the other side is away nobody calls it, but for one probe now and then.

closed --failures in a row--> open --after a pause--> half_open --a success--> closed
                                ^---------------- a failure ----------------------|
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar

from sentinel.backoff import full_jitter
from sentinel.clock import Clock
from sentinel.errors import SlowDownError, UnavailableError

T = TypeVar("T")

FAILURES_TO_OPEN: Final = 3
PAUSE_BASE_S: Final = 1.0
PAUSE_CAP_S: Final = 30.0


class BreakerState(StrEnum):
    """Where a breaker stands; the value of its metric's label."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The breaker of one other side, named for metrics and health. One event loop, no threads.

    Callers use `call`, or `allow` with `record_success` and `record_failure`; a service that stops its intake
    awaits `wait_closed` while the task `watch` probes. ``on_change`` hears of every new state.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        failures: int = FAILURES_TO_OPEN,
        pause_base: float = PAUSE_BASE_S,
        pause_cap: float = PAUSE_CAP_S,
        rng: random.Random | None = None,
        on_change: Callable[[BreakerState], None] | None = None,
    ) -> None:
        self.name = name
        self.state = BreakerState.CLOSED
        self.opened_total = 0
        """Times it went from closed to open."""
        self.opened_at: float | None = None
        """Monotonic seconds of the first opening of the outage that lasts, None while closed."""
        self.reason = ""
        """The last failure's message."""
        self._clock = clock
        self._failures = failures
        self._pause_base = pause_base
        self._pause_cap = pause_cap
        self._rng = rng or random.Random()
        self._on_change = on_change
        self._in_a_row = 0
        self._round = 0
        self._retry_at = 0.0
        self._closed = asyncio.Event()
        self._closed.set()
        self._opened = asyncio.Event()

    @property
    def retry_in(self) -> float:
        """Seconds until the next probe is allowed, 0 where one is."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        return max(self._retry_at - self._clock.monotonic(), 0.0)

    def allow(self) -> bool:
        """Whether a call may be made now. After an open breaker's pause exactly one caller hears yes, the probe.

        A probe that reports nothing for ``pause_cap`` seconds (it was cancelled) is given up, and the next
        caller is the probe.
        """
        if self.state is BreakerState.CLOSED:
            return True
        if self._clock.monotonic() < self._retry_at:
            return False
        self._retry_at = self._clock.monotonic() + self._pause_cap
        self._become(BreakerState.HALF_OPEN)
        return True

    def record_success(self) -> None:
        """A call went well. One that began before the breaker opened does not close it."""
        if self.state is BreakerState.OPEN:
            return
        self._in_a_row = 0
        if self.state is BreakerState.HALF_OPEN:
            self._round = 0
            self.opened_at = None
            self._become(BreakerState.CLOSED)

    def record_failure(self, error: UnavailableError | SlowDownError) -> None:
        """A call failed because the other side is away, or because it asks for less (which opens at once)."""
        self.reason = str(error)
        if self.state is BreakerState.OPEN:
            return
        self._in_a_row += 1
        slow_down = isinstance(error, SlowDownError)
        if self.state is BreakerState.CLOSED:
            if self._in_a_row < self._failures and not slow_down:
                return
            self.opened_total += 1
            self.opened_at = self._clock.monotonic()
        least = (error.retry_after or 0.0) if isinstance(error, SlowDownError) else 0.0
        # Never less than half the step: a pause of nothing would make the probe a busy loop.
        step = min(self._pause_cap, self._pause_base * 2.0 ** min(self._round, 32))
        pause = step / 2 + full_jitter(self._round, self._pause_base / 2, self._pause_cap / 2, self._rng)
        self._round += 1
        self._retry_at = self._clock.monotonic() + max(least, pause)
        self._become(BreakerState.OPEN)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """``await work()``, recorded. Raises UnavailableError without calling while the breaker is open."""
        if not self.allow():
            raise UnavailableError(f"{self.name} is away: {self.reason}")
        try:
            result = await work()
        except (UnavailableError, SlowDownError) as error:
            self.record_failure(error)
            raise
        self.record_success()
        return result

    async def wait_closed(self) -> None:
        """Return when calls may be made again, at once where they may. Needs `watch` or other callers."""
        await self._closed.wait()

    async def watch(self, probe: Callable[[], Awaitable[bool]]) -> None:
        """Probe while the breaker is open, until cancelled; sleeps otherwise. Run it as a task of its own.

        ``probe`` says whether the other side works; UnavailableError and SlowDownError count as no.
        """
        while True:
            await self._opened.wait()
            await asyncio.sleep(self.retry_in)
            if not self.allow():
                # Another caller is probing, or the pause was made longer.
                await asyncio.sleep(max(self.retry_in, 0.001))
                continue
            try:
                works = await probe()
            except (UnavailableError, SlowDownError) as error:
                self.record_failure(error)
            else:
                if works:
                    self.record_success()
                else:
                    # What the calls met says more than a probe's plain no.
                    self.record_failure(UnavailableError(self.reason or f"{self.name} failed a probe"))

    def _become(self, state: BreakerState) -> None:
        if state is self.state:
            return
        self.state = state
        if state is BreakerState.CLOSED:
            self._closed.set()
            self._opened.clear()
        else:
            self._closed.clear()
            self._opened.set()
        if self._on_change is not None:
            self._on_change(state)
