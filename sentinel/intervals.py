"""Confidence intervals for a rate: Wilson's score interval and the exact one of Clopper and Pearson."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from msgspec import Struct

from sentinel.errors import CommandError


class Rate(Struct, frozen=True, gc=False):
    """A share of ``n`` with a two-sided interval, all in [0, 1]; without trials everything is possible."""

    value: float | None
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.value is None:
            return "- (n 0)"
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] n {self.n}"


def wilson(hits: int, n: int, confidence: float = 0.95) -> Rate:
    """Wilson's score interval (Wilson 1927): good coverage on average, also near 0 and 1.

    Raises:
        CommandError: ``hits`` is not in [0, n], or ``confidence`` not in (0, 1).
    """
    _check(hits, n, confidence)
    if n == 0:
        return Rate(None, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == n else min(1.0, middle + half)
    return Rate(share, low, high, n)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Rate:
    """The exact interval (Clopper and Pearson 1934): covers at least as often as it says.

    Its bounds are the rates at which ``hits`` or more (low) and ``hits`` or fewer (high) have probability
    (1 - confidence) / 2, found by bisection. Raises as `wilson`.
    """
    _check(hits, n, confidence)
    if n == 0:
        return Rate(None, 0.0, 1.0, 0)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solve(lambda rate: 1 - binomial_cdf(hits - 1, n, rate) - tail)
    high = 1.0 if hits == n else _solve(lambda rate: tail - binomial_cdf(hits, n, rate))
    return Rate(hits / n, low, high, n)


def binomial_cdf(hits: int, n: int, rate: float) -> float:
    """Probability of at most ``hits`` in ``n`` trials, each a hit with probability ``rate``."""
    if hits < 0:
        return 0.0
    if hits >= n or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    log_rate, log_other = math.log(rate), math.log1p(-rate)
    total = math.lgamma(n + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(total - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_rate + (n - k) * log_other)
            for k in range(hits + 1)
        ),
    )


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check(hits: int, n: int, confidence: float) -> None:
    if not (0 <= hits <= n and 0 < confidence < 1):
        raise CommandError(f"no rate: {hits} of {n} at confidence {confidence}")
