"""When the next request to a guard server may go: the in-flight limit, and the waits that the server asks for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from sentinel.clock import Clock
from sentinel.errors import SlowDownError, UnavailableError

S = TypeVar("S")
T = TypeVar("T")


class Turns:
    """Shared by all requests to one server: a refusal that one of them meets holds the others back too.

    At most ``in_flight`` requests at once. ``base_s`` and ``cap_s`` bound the growing wait after refusals that name
    no time; ``patience_s`` is how long one request waits for a server that asks for less. All in seconds.
    """

    def __init__(
        self,
        in_flight: int,
        *,
        base_s: float,
        cap_s: float,
        patience_s: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.base_s = base_s
        self.cap_s = cap_s
        self.patience_s = patience_s
        self.clock = clock
        self.rng = rng
        self.slots = asyncio.Semaphore(in_flight)
        self._not_before = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds for which the server wants to be left alone, 0 where it does not."""
        return max(self._not_before - self.clock.monotonic(), 0.0) if self._not_before else 0.0

    def turn(self) -> Turn:
        """The turns of one request, which may be refused and sent again."""
        return Turn(self)

    def hold_off(self, retry_after: float | None, refusals: int = 0) -> None:
        """The server asked for less; ``refusals`` of the same request came before this one."""
        # Never at once: "Retry-After: 0" is also said by servers that refuse for minutes.
        wait = max(retry_after, self.base_s) if retry_after else self.step_s(refusals)
        self._not_before = max(self._not_before, self.clock.monotonic() + wait)

    def step_s(self, refusals: int) -> float:
        """The growing wait: ``base_s`` doubled with each refusal, at most ``cap_s`` where that is more."""
        return max(self.base_s, min(self.cap_s, self.base_s * 2.0 ** min(refusals, 32)))


class Turn:
    """``async with`` waits until this request may be sent, and holds its place at the server meanwhile.

    Entered again after `refused`, it waits as the server asked. Entering raises SlowDownError where that would take
    longer than is left of the request's patience; waiting for a free place costs none of it.
    """

    __slots__ = ("_deadline", "_refusals", "_turns")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._refusals = 0
        self._deadline = turns.clock.monotonic() + turns.patience_s

    def refused(self, retry_after: float | None) -> None:
        """The server asked for less; ``retry_after`` in seconds, None where it named no time."""
        self._turns.hold_off(retry_after, self._refusals)
        self._refusals += 1

    async def __aenter__(self) -> Self:
        turns = self._turns
        while True:
            while wait := turns.wait_s:
                now = turns.clock.monotonic()
                if now + wait > self._deadline:
                    raise SlowDownError("the guard asks for less", wait)
                # All waiting requests would otherwise come back in the same millisecond.
                await asyncio.sleep(wait + turns.rng.uniform(0.0, turns.step_s(self._refusals)))
            queued = turns.clock.monotonic()
            await turns.slots.acquire()
            self._deadline += turns.clock.monotonic() - queued
            if not turns.wait_s:
                return self
            # Asked for while this request waited for its place.
            turns.slots.release()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.slots.release()


async def each(items: Sequence[S], work: Callable[[S], Awaitable[T]], at_once: int) -> list[T]:
    """``work`` for each item, at most ``at_once`` of them at a time, results in order.

    Raises the first UnavailableError or SlowDownError of ``work``; no item is begun after it.
    """
    results: dict[int, T] = {}
    errors: list[UnavailableError | SlowDownError] = []
    queue = iter(enumerate(items))

    async def worker() -> None:
        for index, item in queue:
            if errors:
                return
            try:
                results[index] = await work(item)
            except (UnavailableError, SlowDownError) as error:
                errors.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(len(items), at_once)):
            group.create_task(worker(), name="guard-call")
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(items))]
