"""How late an event loop wakes up, beside a bare loop that says how late the machine makes any loop."""

from __future__ import annotations

import asyncio
import statistics
import threading
from dataclasses import dataclass

_PAUSE = 0.05


@dataclass(frozen=True)
class Lags:
    """Lateness in seconds over one stretch of time."""

    median: float
    worst: float


async def loop_lag(seconds: float) -> tuple[Lags, Lags]:
    """Of this loop, and of a loop without any other work in a thread, at the same time."""
    ended = threading.Event()
    control: list[float] = []

    def beside() -> None:
        asyncio.run(_probe(control, ended, None))

    thread = threading.Thread(target=beside, name="lag-control")
    thread.start()
    try:
        ours: list[float] = []
        await _probe(ours, ended, seconds)
    finally:
        ended.set()
        # A blocking join would make the loop late that is measured; nothing else is left to run in the thread.
        await asyncio.to_thread(thread.join)
    return _lags(ours), _lags(control)


async def _probe(found: list[float], ended: threading.Event, seconds: float | None) -> None:
    """Until ``ended`` is set or the time is over; a stretch that the loop was held in is one late waking."""
    clock = asyncio.get_running_loop().time
    last = clock() + seconds if seconds is not None else float("inf")
    while not found or (clock() < last and not ended.is_set()):
        began = clock()
        await asyncio.sleep(_PAUSE)
        found.append(max(0.0, clock() - began - _PAUSE))


def _lags(found: list[float]) -> Lags:
    return Lags(statistics.median(found), max(found))
