"""Waiting for something to become true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, overload

T = TypeVar("T")


class WaitUntil(Protocol):
    """The fixture's type."""

    @overload
    async def __call__(
        self, predicate: Callable[[], Awaitable[T]], timeout: float = ..., interval: float = ...
    ) -> T: ...
    @overload
    async def __call__(
        self, predicate: Callable[[], T], timeout: float = ..., interval: float = ...
    ) -> T: ...


@overload
async def wait_until(
    predicate: Callable[[], Awaitable[T]], timeout: float = ..., interval: float = ...
) -> T: ...
@overload
async def wait_until(predicate: Callable[[], T], timeout: float = ..., interval: float = ...) -> T: ...
async def wait_until(predicate: Callable[[], Any], timeout: float = 60.0, interval: float = 0.02) -> Any:
    """Poll until ``predicate`` gives something true, and return that. A long limit costs only what fails.

    Raises:
        AssertionError: it did not within ``timeout`` seconds; the message shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        result = await value if inspect.isawaitable(value) else value
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout} s: {predicate!r} gave {result!r}")
        await asyncio.sleep(interval)
