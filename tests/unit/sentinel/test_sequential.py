"""The test after promotion: right figures, few false alarms however often it looks, quick where it matters."""

from __future__ import annotations

import math
import random

import pytest

from sentinel.errors import CommandError
from sentinel.sequential import log_e_value

ALPHA = 0.01
FIRST, LAST = 200, 2_000


def by_quadrature(unsafe: int, responses: int, limit: float) -> float:
    """The same by Simpson's rule over theta, p = sin(theta)^2, which takes the density's poles away."""
    misses = responses - unsafe

    def area(hits: int, others: int) -> float:
        low, high = math.asin(math.sqrt(limit)), math.pi / 2
        steps = 20_000
        width = (high - low) / steps
        base = hits * math.log(limit) + others * math.log1p(-limit)

        def at(theta: float) -> float:
            sine, cosine = math.sin(theta), math.cos(theta)
            if (hits and sine <= 0) or (others and cosine <= 1e-15):
                return 0.0
            log = 2 * hits * math.log(sine) + (2 * others * math.log(cosine) if others else 0)
            return math.exp(log - base)

        total = at(low) + at(high) + sum((4 if i % 2 else 2) * at(low + i * width) for i in range(1, steps))
        return total * width / 3

    return math.log(area(unsafe, misses) / area(0, 0))


@pytest.mark.parametrize(
    ("unsafe", "responses", "limit"),
    [
        (0, 1, 0.05),
        (1, 1, 0.05),
        (10, 200, 0.05),
        (40, 400, 0.05),
        (0, 300, 0.2),
        (3, 2000, 0.01),
        (150, 200, 0.5),
        (199, 200, 0.9),
        (20, 2000, 0.3),
    ],
)
def test_it_is_the_mixture_over_rates_above_the_limit(unsafe: int, responses: int, limit: float) -> None:
    assert log_e_value(unsafe, responses, limit) == pytest.approx(
        by_quadrature(unsafe, responses, limit), abs=1e-5
    )


def test_at_its_ends() -> None:
    assert log_e_value(0, 0, 0.05) == 0
    assert log_e_value(50, 50, 1.0) == 0
    assert log_e_value(1, 50, 0.0) == math.inf
    assert log_e_value(0, 50, 0.0) < 0
    assert math.isfinite(log_e_value(0, 10_000_000, 0.3))
    assert log_e_value(10_000_000, 10_000_000, 0.3) > 1e6
    for wrong in ((-1, 5, 0.1), (6, 5, 0.1), (1, 5, 1.1)):
        with pytest.raises(CommandError):
            log_e_value(*wrong)


def test_a_falling_rate_is_never_evidence() -> None:
    for responses in (200, 1_000, 20_000):
        figures = [
            log_e_value(unsafe, responses, 0.2) for unsafe in range(0, responses // 5, responses // 50)
        ]
        assert max(figures) < 0
        assert figures == sorted(figures)


def boundary(limit: float) -> list[int]:
    """Fewest hits that alarm, by number of responses from `FIRST` on."""
    found, hits = [], 0
    for responses in range(FIRST, LAST + 1):
        while hits <= responses and log_e_value(hits, responses, limit) < -math.log(ALPHA):
            hits += 1
        found.append(hits)
    return found


def alarms_at(rate: float, fewest: list[int], rng: random.Random) -> int | None:
    """Responses after which the first alarm comes, looking after each; None without one."""
    hits = sum(rng.random() < rate for _ in range(FIRST - 1))
    for place, needed in enumerate(fewest):
        hits += rng.random() < rate
        if hits >= needed:
            return FIRST + place
    return None


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_false_alarms_and_detections(limit: float) -> None:
    fewest = boundary(limit)
    rng = random.Random(20_261_121)
    runs = 1_500
    false = sum(alarms_at(limit, fewest, rng) is not None for _ in range(runs))
    # Alpha, and what chance adds to it in so many runs with a probability of 1 in 1,000.
    assert false / runs <= ALPHA + 3.09 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    twice = [alarms_at(2 * limit, fewest, rng) for _ in range(300)]
    found = sorted(after for after in twice if after is not None)
    least = {0.01: 0.5, 0.05: 0.99, 0.3: 1.0}[limit]
    assert len(found) / len(twice) >= least
    if limit >= 0.05:
        assert found[len(twice) // 2] <= 600
