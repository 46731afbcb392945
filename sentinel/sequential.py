"""A one-sided sequential test of a rate that may be looked at after every event.

The evidence is an e-value: the likelihood of what was seen under rates above the limit ``p0``, mixed by a
beta(1/2, 1/2) density truncated to (p0, 1], over its likelihood under ``p0``. Where the true rate is ``p0`` or less
it is a supermartingale that begins at 1, so that it ever reaches 1/alpha with probability alpha at most (Ville),
however often one looks (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021). Mixing over all rates instead
would also grow where the rate falls, and call a success an alarm.
"""

from __future__ import annotations

import math
from typing import Final

from sentinel.errors import CommandError

PRIOR: Final = 0.5
"""Both parameters of the mixing beta density."""

_TINY: Final = 1e-300
_PRECISION: Final = 1e-14
_MOST_TERMS: Final = 10_000


def log_e_value(unsafe: int, responses: int, limit_rate: float) -> float:
    """Natural logarithm of the evidence that the rate is above ``limit_rate``; 0.0 without responses.

    A limit of 1 is never exceeded: 0.0. A limit of 0 is exceeded by the first hit: infinity.

    Raises:
        CommandError: ``unsafe`` is not in [0, responses], or the limit not in [0, 1].
    """
    if not (0 <= unsafe <= responses and 0 <= limit_rate <= 1):
        raise CommandError(f"no evidence: {unsafe} of {responses} against a rate of {limit_rate}")
    if limit_rate == 1 or responses == 0:
        return 0.0
    hits, misses = PRIOR + unsafe, PRIOR + responses - unsafe
    if limit_rate == 0:
        return math.inf if unsafe else _log_beta(hits, misses) - _log_beta(PRIOR, PRIOR)
    above = 1 - limit_rate
    return (
        _log_beta(hits, misses)
        + _log_regularised(above, misses, hits)
        - _log_beta(PRIOR, PRIOR)
        - _log_regularised(above, PRIOR, PRIOR)
        - unsafe * math.log(limit_rate)
        - (responses - unsafe) * math.log1p(-limit_rate)
    )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_regularised(x: float, a: float, b: float) -> float:
    """Logarithm of the regularised incomplete beta function I_x(a, b), 0 < x < 1, also where that is 1e-1000.

    The continued fraction (DLMF 8.17.22) by Lentz's method, on the side where it converges fast.
    """
    if x > (a + 1) / (a + b + 2):
        other = _log_regularised(1 - x, b, a)
        return math.log1p(-math.exp(other)) if other < 0 else -math.inf
    front = a * math.log(x) + b * math.log1p(-x) - math.log(a) - _log_beta(a, b)
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + even * d)
        c = _away_from_zero(1 + even / c)
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away_from_zero(1 + odd * d)
        c = _away_from_zero(1 + odd / c)
        fraction *= d * c
        if abs(d * c - 1) < _PRECISION:
            break
    return front + math.log(fraction)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
