"""A minute at 50 events a second: nothing lost, quick, and no memory that grows with the events."""

from __future__ import annotations

import argparse
import statistics
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.soak import Plan, Soaked, rss_slope, soak
from benchmarks.stack import open_stack
from tests.support.brokers import ApacheKafka

EVENT_BYTES = 5000
"""What an event that was never let go would hold at least: its record, the words made of it, its rows."""


def growth(found: Soaked) -> float:
    """Median of the slopes between all pairs of readings of the second half, KiB/s (Theil 1950, Sen 1968).

    One step of an allocator, however high, moves it by far less than a least-squares line.
    """
    half = found.readings[len(found.readings) // 2 :]
    return statistics.median((b.rss - a.rss) / 1024 / (b.at - a.at) for a, b in combinations(half, 2))


def unsteady(found: Soaked) -> list[str]:
    """What was not as it should be, of what other work of the machine can spoil too."""
    slope, typical = rss_slope(found), growth(found)
    worst, last = max(reading.lag for reading in found.readings[5:]), found.readings[-1].lag
    # Every second event kept would be more; an allocator's steps of a few megabytes are less.
    kept = 50 * EVENT_BYTES / 1024 / 2
    wrong = {
        f"95 % of the events were {found.age:.3f} s old or younger": found.age >= 1.0,
        # Three seconds of traffic: a hiccup of a loaded machine, not a backlog that builds up.
        f"lag {worst} at most, {last} at the end": worst >= 150 or last >= 50,
        f"memory grows by {slope.low:.1f} KiB/s at least, typically {typical:.1f}": slope.low >= kept
        or typical >= kept,
    }
    return [what for what, is_so in wrong.items() if is_so]


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_minute_at_fifty_a_second(
    kafka: ApacheKafka, server_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan("steady", seconds=60.0, interval=1.0, rate=50)
    spoiled: list[list[str]] = []
    async with open_stack(argparse.Namespace(kafka=kafka.bootstrap)) as stack:
        # What is lost is lost. For the rest another minute may be quieter; a daemon that is too slow, or keeps what
        # it has read, is so in each of them.
        for number in range(3):
            folder = server_folder / f"soak-{number}"
            folder.mkdir()
            found = await soak(stack, folder, plan)
            slope, typical = rss_slope(found), growth(found)
            # Of a test that passes pytest shows nothing, and the numbers are what is to be seen.
            with capsys.disabled():
                print(
                    f"\n{found.produced} events, {found.lost} lost, p95 age {found.age:.3f} s, memory grows by"
                    f" {slope.value:.1f} KiB/s ({slope.low:.1f} to {slope.high:.1f}), typically {typical:.1f},"
                    f" lag at most {max(reading.lag for reading in found.readings)}"
                )
            assert found.produced >= 2500
            assert found.lost == 0
            assert found.stored == found.produced
            spoiled.append(unsteady(found))
            if not spoiled[-1]:
                return
    pytest.fail(f"not one minute was steady: {spoiled}", pytrace=False)
