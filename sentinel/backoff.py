"""How long to wait before a call is repeated, and how often repeating is allowed at all."""

from __future__ import annotations

import datetime as dt
import math
import random
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 3_600.0
"""A server (or whoever stands before it) cannot stop the service for longer than this with one header."""


def full_jitter(attempt: int, base_s: float, cap_s: float, rng: random.Random) -> float:
    """Seconds to wait before retry ``attempt`` (0, 1, ...): uniform in [0, min(cap, base * 2**attempt)].

    Source: "full jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
    """
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt, 32)))


def retry_after_seconds(value: str | None, now: dt.datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, at most `MAX_RETRY_AFTER_S`; None where it is unclear.

    Both forms of RFC 9110 section 10.2.3 are read: a number of seconds (fractions too) and an HTTP date.
    ``now`` is timezone-aware.
    """
    if value is None:
        return None
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError):
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=dt.UTC)
        seconds = (at - now).total_seconds()
    if math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


class RetryBudget:
    """Retries as a share of the calls that went well, so that a sick server is not buried under repeats.

    Every success earns ``share`` of a retry, up to ``reserve``; every retry costs one.
    """

    def __init__(self, share: float = 0.5, reserve: float = 50.0) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    @property
    def left(self) -> float:
        """Retries that are still allowed."""
        return self._left

    def earn(self) -> None:
        """A call went well."""
        if self._left < self._reserve:
            self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        """Take one retry; False where none is left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
