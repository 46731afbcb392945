"""Waiting for something to become true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class WaitUntil(Protocol):
    """The fixture's type."""

    async def __call__(
        self, predicate: Callable[[], T | Awaitable[T]], timeout: float = 10.0, interval: float = 0.02
    ) -> T: ...


async def wait_until(
    predicate: Callable[[], T] | Callable[[], Awaitable[T]], timeout: float = 10.0, interval: float = 0.02
) -> T:
    """Poll until ``predicate`` gives something true, and return that.

    Raises:
        AssertionError: it did not within ``timeout`` seconds; the message shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        result: T = await value if inspect.isawaitable(value) else value
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout} s: {predicate!r} gave {result!r}")
        await asyncio.sleep(interval)
