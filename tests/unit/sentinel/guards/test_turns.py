"""Waits that a server asks for: who heeds them, how they grow, and when they are too long."""

from __future__ import annotations

import random

import pytest

from sentinel.clock import ManualClock
from sentinel.errors import SlowDownError
from sentinel.guards.turns import Turns


def _turns(clock: ManualClock, in_flight: int = 2) -> Turns:
    return Turns(in_flight, base_s=0.5, cap_s=4.0, patience_s=60.0, clock=clock, rng=random.Random(3))


def test_refusals_without_a_time_wait_longer_each_time_up_to_the_cap() -> None:
    clock = ManualClock()
    turns = _turns(clock)
    turn = turns.turn()
    waits = []
    for _ in range(6):
        turn.refused(None)
        waits.append(turns.wait_s)
        clock.advance(10)
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_the_time_that_the_server_names_is_what_is_waited() -> None:
    clock = ManualClock()
    turns = _turns(clock)
    turn = turns.turn()
    for _ in range(5):
        turn.refused(3.0)
        assert turns.wait_s == 3.0
        clock.advance(10)
    turns.hold_off(0.001)
    assert turns.wait_s == 0.5


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    clock = ManualClock()
    turns = _turns(clock)
    turns.hold_off(30.0)
    clock.advance(1)
    turns.hold_off(None)
    assert turns.wait_s == 29.0
    clock.advance(30)
    assert turns.wait_s == 0.0


async def test_a_wait_beyond_the_patience_is_refused_with_what_is_left_of_it() -> None:
    clock = ManualClock()
    turns = _turns(clock)
    turns.hold_off(61.0)
    with pytest.raises(SlowDownError) as caught:
        async with turns.turn():
            pytest.fail("entered")
    assert caught.value.retry_after == 61.0
    clock.advance(2)
    early = turns.turn()
    clock.advance(59)
    async with early:
        assert turns.slots._value == 1
    assert turns.slots._value == 2


async def test_a_failed_request_gives_its_place_back() -> None:
    turns = _turns(ManualClock(), in_flight=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with turns.turn():
                raise ZeroDivisionError
    assert not turns.slots.locked()
