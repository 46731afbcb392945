"""What the soak makes of its readings."""

from __future__ import annotations

import random

import pytest

from benchmarks.soak import (
    Plan,
    Reading,
    Soaked,
    figures,
    make_soak_report,
    parse,
    quantile,
    rss_slope,
    slope,
)


def _soaked(leak: float, *, ended: int = 1000) -> Soaked:
    draw = random.Random(1)
    readings = [
        Reading(at=float(t), rss=int(100e6 + leak * t + draw.uniform(-5e3, 5e3)), lag=3, unwritten=2, age=0.1)
        for t in range(60)
    ]
    plan = Plan("steady", 60.0, 1.0, 50)
    return Soaked(
        plan, readings, produced=1000, ended=ended, stored=ended, age=0.1, program_cpu=0.5, seconds=60.0
    )


def test_the_slope_is_that_of_a_line_with_an_interval_around_it() -> None:
    exact = slope([(float(x), 3.0 * x + 7) for x in range(10)])
    assert exact == pytest.approx((3.0, 3.0, 3.0))
    draw = random.Random(2)
    value, low, high = slope([(float(x), 3.0 * x + draw.gauss(0, 5)) for x in range(50)])
    assert low < 3.0 < high
    assert low < value < high
    with pytest.raises(ValueError, match="four"):
        slope([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)])


def test_a_leak_shows_in_the_slope_and_flat_memory_does_not() -> None:
    flat, leaking = rss_slope(_soaked(0)), rss_slope(_soaked(50 * 2048))
    assert flat.low < 0 < flat.high
    assert leaking.value == pytest.approx(100, rel=0.02)
    assert leaking.low > 90


def test_the_quantile_is_that_of_prometheus() -> None:
    inf = float("inf")
    assert quantile({}, 0.95) is None
    assert quantile({0.1: 0, 1.0: 0, inf: 0}, 0.95) is None
    assert quantile({0.1: 100, 1.0: 100, inf: 100}, 0.95) == pytest.approx(0.095)
    assert quantile({0.1: 90, 1.0: 100, inf: 100}, 0.95) == pytest.approx(0.55)
    # Beyond the last bound nothing is known but that it is more.
    assert quantile({0.1: 0, 1.0: 0, inf: 10}, 0.95) == 1.0


def test_events_without_an_outcome_are_lost() -> None:
    found = {(r.case, r.metric): r.value for r in figures(_soaked(0, ended=997))}
    assert found["steady", "lost"] == 3
    assert found["steady", "event_age_p95"] == pytest.approx(0.1)
    assert make_soak_report([_soaked(0)]).benchmark == "soak"


def test_a_run_too_short_for_a_slope_is_refused() -> None:
    assert parse([]).rate == 50
    with pytest.raises(SystemExit):
        parse(["--seconds", "10", "--interval", "2"])
