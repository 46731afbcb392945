"""A minute at 50 events a second: nothing lost, quick, and no memory that grows with the events."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.soak import Plan, rss_slope, soak
from benchmarks.stack import open_stack
from tests.support.brokers import ApacheKafka

EVENT_BYTES = 5000
"""What an event that was never let go would hold at least: its record, the words made of it, its rows."""


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_minute_at_fifty_a_second(kafka: ApacheKafka, server_folder: Path) -> None:
    plan = Plan("steady", seconds=60.0, interval=1.0, rate=50)
    async with open_stack(argparse.Namespace(kafka=kafka.bootstrap)) as stack:
        found = await soak(stack, server_folder, plan)
    slope = rss_slope(found)
    print(
        f"{found.produced} events, {found.lost} lost, p95 age {found.age:.3f} s,"
        f" memory {slope.value:.1f} KiB/s ({slope.low:.1f} to {slope.high:.1f}),"
        f" lag at most {max(reading.lag for reading in found.readings)}"
    )
    assert found.produced >= 2950
    assert found.lost == 0
    assert found.stored == found.produced
    assert found.age < 1.0
    # Two seconds of traffic: a hiccup of a loaded machine, not a backlog that builds up.
    assert max(reading.lag for reading in found.readings[5:]) < 150
    assert found.readings[-1].lag < 50
    # Kept events would grow by 50 a second; an allocator's steps of a few megabytes in half a minute are less.
    assert slope.low < 50 * EVENT_BYTES / 1024
