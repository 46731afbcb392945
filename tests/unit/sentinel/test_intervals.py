from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from sentinel.errors import CommandError
from sentinel.intervals import Rate, binomial_cdf, clopper_pearson, wilson

# Published and independently computed values.
KNOWN_EXACT = [
    # hits, n, low, high: the closed forms at the ends, and textbook values between them
    (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
    (10, 10, 0.025 ** (1 / 10), 1.0),
    (0, 300, 0.0, 1 - 0.025 ** (1 / 300)),
    (1, 10, 0.00252858, 0.44501612),
    (5, 10, 0.18708603, 0.81291397),
]
KNOWN_WILSON = [(0, 10, 0.0, 0.27753279), (5, 10, 0.23659309, 0.76340691), (10, 10, 0.72246721, 1.0)]


@pytest.mark.parametrize(("hits", "n", "low", "high"), KNOWN_EXACT)
def test_clopper_pearson_gives_known_bounds(hits: int, n: int, low: float, high: float) -> None:
    found = clopper_pearson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize(("hits", "n", "low", "high"), KNOWN_WILSON)
def test_wilson_gives_known_bounds(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)


# Newcombe 1998 (Statistics in Medicine 17:857-872), table I: hits, n, score interval, exact interval.
NEWCOMBE = [
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
]


@pytest.mark.parametrize(("hits", "n", "score", "exact"), NEWCOMBE)
def test_published_intervals(
    hits: int, n: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    for found, published in ((wilson(hits, n), score), (clopper_pearson(hits, n), exact)):
        assert (round(found.low, 4), round(found.high, 4)) == published


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 7, 20, 250, 2000])
def test_intervals_are_those_of_scipy(n: int, confidence: float) -> None:
    for hits in {0, 1, n // 20, n // 3, n - 1, n}:
        reference = stats.binomtest(hits, n)
        for interval, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
            wanted = reference.proportion_ci(confidence, method)
            found = interval(hits, n, confidence)
            assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9), (
                hits,
                method,
            )


def test_binomial_cdf_adds_up_the_counts() -> None:
    for n in (1, 7, 30):
        for rate in (0.0, 0.1, 0.5, 0.93, 1.0):
            exact = 0.0
            for hits in range(n + 1):
                exact += math.comb(n, hits) * rate**hits * (1 - rate) ** (n - hits)
                assert binomial_cdf(hits, n, rate) == pytest.approx(exact, abs=1e-12)
    assert binomial_cdf(-1, 5, 0.3) == 0.0


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.95])
def test_the_exact_interval_covers_at_least_as_often_as_it_says(rate: float) -> None:
    """By enumeration, not by simulation: the probability of all counts whose interval holds the true rate."""
    n = 60
    covered = sum(
        math.comb(n, hits) * rate**hits * (1 - rate) ** (n - hits)
        for hits in range(n + 1)
        if clopper_pearson(hits, n).low <= rate <= clopper_pearson(hits, n).high
    )
    assert 0.95 <= covered < 0.995


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_intervals_are_mirrored_narrow_with_n_and_widen_with_confidence(interval: type) -> None:
    rng = random.Random(3)
    for _ in range(50):
        n = rng.randint(1, 400)
        hits = rng.randint(0, n)
        one, other = interval(hits, n), interval(n - hits, n)
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)
        assert 0 <= one.low <= hits / n <= one.high <= 1
        more, surer = interval(4 * hits, 4 * n), interval(hits, n, 0.99)
        assert more.high - more.low < one.high - one.low < surer.high - surer.low


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_no_trials_say_nothing(interval: type) -> None:
    assert interval(0, 0) == Rate(None, 0.0, 1.0, 0)
    assert str(interval(0, 0)) == "- (n 0)"


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(("hits", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_what_is_no_rate_is_refused(interval: type, hits: int, n: int, confidence: float) -> None:
    with pytest.raises(CommandError, match=f"{hits} of {n}"):
        interval(hits, n, confidence)
