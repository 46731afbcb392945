"""Tests on paired shares: the exact binomial for "better", Tango's score statistic for "not worse by a margin"."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.intervals import binomial_cdf

_NORMAL: Final = NormalDist()
_STEPS: Final = 60
"""Halvings of [-1, 1]: the bound is exact to the last digit of a double."""


class Paired(Struct, frozen=True, gc=False):
    """Two models on the same prompts; ``good`` is what the share counts."""

    n: int
    better: int
    """Prompts on which only the candidate is good."""
    worse: int
    """Prompts on which only the incumbent is good."""

    @property
    def difference(self) -> float:
        """The candidate's share minus the incumbent's; 0 without prompts."""
        return (self.better - self.worse) / self.n if self.n else 0.0


def superiority_p(paired: Paired) -> float:
    """One-sided exact p-value of "the candidate is good no more often" (McNemar 1947, in its exact form).

    Given the number of prompts on which the two differ, the count of those in favour is binomial with share 1/2
    under equality. Without such prompts it is 1: an unchanged copy is not better.
    """
    return binomial_cdf(paired.worse, paired.better + paired.worse, 0.5)


def tango_z(paired: Paired, difference: float) -> float:
    """Score statistic of H0: candidate - incumbent = ``difference`` (Tango 1998, Statistics in Medicine 17:891-908).

    Positive where the data lie above. The variance is taken at the hypothesis: with the share q of pairs in
    which only the incumbent is good, (2 q + d (1 - d)) / n, q being its maximum likelihood estimate under d.
    ``difference`` is in (-1, 1).
    """
    n, better, worse = paired.n, paired.better, paired.worse
    linear = (2 * n - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    # Of the two forms of the larger root the one that subtracts nothing: the other loses all digits near 0.
    share = (root - linear) / (4 * n) if linear <= 0 else -2 * constant / (root + linear)
    variance = n * (2 * share + difference * (1 - difference))
    distance = better - worse - n * difference
    if variance <= 0:
        # Both models agree everywhere and the hypothesis is equality.
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def non_inferiority_p(paired: Paired, margin: float) -> float:
    """One-sided p-value of "the candidate's share is lower by ``margin`` or more" (0 < margin < 1).

    Raises:
        CommandError: no prompts, or a margin outside (0, 1).
    """
    if paired.n == 0 or not 0 < margin < 1:
        raise CommandError(f"no test of {paired.n} prompts with margin {margin}")
    return _NORMAL.cdf(-tango_z(paired, -margin))


def tango(paired: Paired, confidence: float) -> tuple[float, float]:
    """Tango's score interval of candidate - incumbent: all differences that the score test does not refuse.

    Two-sided; each end is a one-sided bound at level (1 - confidence) / 2. Without prompts it is (-1, 1).
    """
    if paired.n == 0:
        return -1.0, 1.0
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    low = _first(lambda d: tango_z(paired, d) <= z, -1.0, paired.difference)
    high = _first(lambda d: tango_z(paired, d) < -z, paired.difference, 1.0)
    return low, high


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The point of [low, high] from which on ``holds``; it is false before and true after."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2
