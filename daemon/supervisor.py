"""Who must show signs of life, and for how long each may be silent; feeds systemd's watchdog.

The watchdog is fed while poller and writer tick. It is not tied to lag, to the guard or to the database being
up: an outage elsewhere must not restart this process in a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from sentinel import logs
from sentinel.clock import Clock
from sentinel.notify import Notifier

_log = logs.get("daemon.supervisor")


class Supervisor:
    """Deadlines by name, in seconds; a name that never ticked counts from the start."""

    def __init__(
        self,
        deadlines: Mapping[str, float],
        *,
        clock: Clock,
        notifier: Notifier,
        watchdog_s: float | None,
        loop_lag: Callable[[float], None],
        status: Callable[[], str],
    ) -> None:
        self._deadlines = dict(deadlines)
        self._clock = clock
        self._notifier = notifier
        # systemd recommends half of the limit.
        self._interval = min(1.0, watchdog_s / 2) if watchdog_s else 1.0
        self._loop_lag = loop_lag
        self._status = status
        now = clock.monotonic()
        self._seen = dict.fromkeys(self._deadlines, now)
        self._silent: frozenset[str] = frozenset()

    def ticker(self, name: str) -> Callable[[], None]:
        """The function that ``name`` calls as a sign of life."""
        if name not in self._deadlines:
            raise KeyError(name)

        def tick() -> None:
            self._seen[name] = self._clock.monotonic()

        return tick

    def silent(self) -> frozenset[str]:
        """Names that have been silent for longer than they may."""
        now = self._clock.monotonic()
        return frozenset(n for n, limit in self._deadlines.items() if now - self._seen[n] > limit)

    async def run(self) -> None:
        """Feed the watchdog until cancelled."""
        while True:
            due = self._clock.monotonic() + self._interval
            await asyncio.sleep(self._interval)
            self._loop_lag(max(0.0, self._clock.monotonic() - due))
            silent = self.silent()
            if silent - self._silent:
                _log.error("A part of the service is silent.", action="watchdog", parts=sorted(silent))
            self._silent = silent
            if not silent:
                self._notifier.watchdog()
            self._notifier.status(self._status())
