"""A flood of bad records stops the partition instead of draining the topic into the dead letters."""

from __future__ import annotations

from collections import deque

from msgspec import Struct


class FloodLimits(Struct, frozen=True, kw_only=True):
    """When bad records are a flood: a ratio over a window of records, or so many in a row."""

    ratio: float = 0.5
    window: int = 200
    consecutive: int = 100


class FloodGuard:
    """Watches one partition; ``allowance`` records are let through without judging (an operator's resume)."""

    def __init__(self, limits: FloodLimits, allowance: int = 0) -> None:
        self._limits = limits
        self._recent: deque[bool] = deque(maxlen=limits.window)
        self._bad = 0
        self._row = 0
        self.allowance = allowance

    def observe(self, bad: bool) -> bool:
        """Count one record; True when the partition must halt."""
        if not bad and not self._bad and self.allowance <= 0 and self._limits.ratio > 0:
            # All is well, as nearly always: nothing bad enters the window and nothing bad leaves it.
            self._recent.append(False)
            self._row = 0
            return False
        if self.allowance > 0:
            self.allowance -= 1
            return False
        if len(self._recent) == self._limits.window:
            self._bad -= self._recent[0]
        self._recent.append(bad)
        self._bad += bad
        self._row = self._row + 1 if bad else 0
        if self._row >= self._limits.consecutive:
            return True
        full = len(self._recent) == self._limits.window
        return full and self._bad >= self._limits.ratio * self._limits.window
