"""Signs of life of a task that waits for another side.

A broker or a database that accepts connections and never answers is an outage elsewhere: the calls to it end by
their own time limits, and a watchdog that is not fed meanwhile would kill this process in a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT_S = 600.0
"""A wait that outlasts every time limit of the clients is a stuck task, and has to look like one."""

_EVERY_S = 1.0


@contextmanager
def waiting(
    tick: Callable[[], None], limit_s: float = LIMIT_S, every_s: float | None = None
) -> Iterator[None]:
    """Call ``tick`` now and every ``every_s`` seconds (1 by default), for ``limit_s`` seconds at most."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    every = _EVERY_S if every_s is None else every_s
    handle: asyncio.TimerHandle

    def again() -> None:
        nonlocal handle
        tick()
        if loop.time() < end:
            handle = loop.call_later(every, again)

    tick()
    handle = loop.call_later(every, again)
    try:
        yield
    finally:
        handle.cancel()
