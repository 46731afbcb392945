"""Batches fill, leave in time, and hand everyone their own verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sentinel.errors import UnavailableError
from sentinel.events import Message
from sentinel.guards.base import GuardRequest, Judgement
from sentinel.guards.batching import BatchingGuard
from sentinel.verdicts import Assessment, Label, Role


class EchoGuard:
    """Says the text back as the raw answer; waits for `open` before each answer."""

    guard_id = "0" * 16
    model = "echo"
    template = "echo/1"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.cancelled = 0
        self.closed = False

    async def assess(self, requests: Sequence[GuardRequest]) -> list[Judgement]:
        self.batches.append(len(requests))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return [Assessment(label=Label.SAFE, raw=request.response or "") for request in requests]

    async def probe(self) -> bool:
        return True

    async def aclose(self) -> None:
        self.closed = True


def _texts(*names: str) -> list[GuardRequest]:
    return [GuardRequest(Role.RESPONSE, (Message("user", "q"),), name) for name in names]


async def _ask(guard: BatchingGuard, *names: str) -> list[str]:
    judged = await guard.assess(_texts(*names))
    return [said.raw if isinstance(said, Assessment) else "" for said in judged]


async def test_everyone_gets_their_own() -> None:
    inner = EchoGuard()
    guard = BatchingGuard(inner, size=8, linger=0.01)
    asked = [(f"a{n}", f"b{n}") for n in range(20)]
    assert await asyncio.gather(*(_ask(guard, *pair) for pair in asked)) == [list(pair) for pair in asked]
    assert inner.batches == [8, 8, 8, 8, 8]
    assert guard.in_flight == guard.waiting == 0


async def test_a_lone_text_leaves_after_the_linger() -> None:
    inner = EchoGuard()
    guard = BatchingGuard(inner, size=100, linger=0.02)
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await _ask(guard, "x") == ["x"]
    assert 0.015 < loop.time() - start < 0.5
    assert await guard.assess([]) == []
    assert inner.batches == [1]


async def test_at_the_limit_texts_wait_and_fill_up() -> None:
    inner = EchoGuard()
    inner.open.clear()
    guard = BatchingGuard(inner, size=4, linger=0.0, batches=1)
    first = asyncio.create_task(_ask(guard, "x"))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(_ask(guard, str(n))) for n in range(6)]
    await asyncio.sleep(0.01)
    assert inner.batches == [1]
    assert guard.waiting == 6
    inner.open.set()
    await asyncio.wait_for(asyncio.gather(first, *rest), 1)
    assert inner.batches == [1, 4, 2]


async def test_calls_stay_together_and_large_ones_go_alone() -> None:
    inner = EchoGuard()
    guard = BatchingGuard(inner, size=3, linger=0.005)
    calls = [("a", "b"), ("c", "d"), tuple("efghij"), ("k",)]
    assert await asyncio.gather(*(_ask(guard, *call) for call in calls)) == [list(call) for call in calls]
    assert sum(inner.batches) == 11
    assert 6 in inner.batches


async def test_an_outage_reaches_every_caller() -> None:
    inner = EchoGuard()
    inner.error = UnavailableError("away")
    guard = BatchingGuard(inner, size=2, linger=0.0)
    results = await asyncio.gather(*(_ask(guard, str(n)) for n in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 5
    inner.error = None
    assert await _ask(guard, "again") == ["again"]


async def test_a_bug_in_the_guard_reaches_every_caller() -> None:
    inner = EchoGuard()
    inner.error = KeyError("bug")
    guard = BatchingGuard(inner, size=2, linger=0.0)
    with pytest.raises(KeyError):
        await _ask(guard, "x")


async def test_a_cancelled_caller_disturbs_nobody() -> None:
    inner = EchoGuard()
    inner.open.clear()
    guard = BatchingGuard(inner, size=3, linger=0.001)
    callers = [asyncio.create_task(_ask(guard, str(n))) for n in range(3)]
    await asyncio.sleep(0.005)
    callers[1].cancel()
    inner.open.set()
    assert await callers[0] == ["0"]
    assert await callers[2] == ["2"]
    with pytest.raises(asyncio.CancelledError):
        await callers[1]


async def test_callers_cancelled_while_waiting_are_not_asked_about() -> None:
    inner = EchoGuard()
    guard = BatchingGuard(inner, size=10, linger=0.01)
    gone = asyncio.create_task(_ask(guard, "gone"))
    kept = asyncio.create_task(_ask(guard, "kept"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await kept == ["kept"]
    assert inner.batches == [1]


async def test_close_ends_everything() -> None:
    inner = EchoGuard()
    inner.open.clear()
    guard = BatchingGuard(inner, size=2, linger=60, batches=1)
    callers = [asyncio.create_task(_ask(guard, str(n))) for n in range(3)]
    await asyncio.sleep(0.01)
    await guard.aclose()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert inner.cancelled == 1
    assert inner.closed
    assert guard.in_flight == guard.waiting == 0
