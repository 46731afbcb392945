"""Arrivals are a Poisson process (S1-01)."""

from __future__ import annotations

import inspect
import itertools
import math
import random

import pytest

from producers.commands.traffic import traffic
from producers.traffic.arrivals import gaps


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_are_exponential_with_the_mean_asked_for(seed: int) -> None:
    drawn = sorted(itertools.islice(gaps(50.0, random.Random(seed)), 10_000))
    assert sum(drawn) / len(drawn) == pytest.approx(0.02, rel=0.05)
    # Kolmogorov-Smirnov: sqrt(n) D above 1.63 has probability .01.
    n = len(drawn)
    worst = max(
        max((i + 1) / n - (1 - math.exp(-50 * x)), (1 - math.exp(-50 * x)) - i / n)
        for i, x in enumerate(drawn)
    )
    assert math.sqrt(n) * worst < 1.63


def test_the_seed_decides() -> None:
    first = list(itertools.islice(gaps(5, random.Random(7)), 20))
    assert first == list(itertools.islice(gaps(5, random.Random(7)), 20))
    assert first != list(itertools.islice(gaps(5, random.Random(8)), 20))


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        next(gaps(0, random.Random()))


def test_fifty_a_second_unless_told_otherwise() -> None:
    assert inspect.signature(traffic).parameters["rate"].default == 50
