"""What keeps the loop from working: said once in the log, shown in readiness and metrics while it lasts."""

from __future__ import annotations

from typing import Final

from consumers.handing import Observer
from sentinel import logs
from sentinel.clock import Clock
from sentinel.errors import DeniedError, UnavailableError
from sentinel.failures import describe

DENIAL_QUIET_S: Final = 10.0
"""A denial is over after so long without another: one topic may be denied while others deliver."""

_log = logs.get("consumers.outage")


class Outage:
    """The loop's present outage, if any."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock
        self._kind: tuple[str, bool] | None = None
        self._not_over_before = float("-inf")
        self.text = ""
        """What is away and why, empty while nothing is."""

    def away(self, error: UnavailableError) -> None:
        """Note a failure; logged where the one before was of another kind."""
        denied = isinstance(error, DeniedError)
        if denied:
            self._not_over_before = self._clock.monotonic() + DENIAL_QUIET_S
        elif self._clock.monotonic() < self._not_over_before:
            return  # what an operator must mend is not hidden by what comes and goes
        if self._kind != (error.target, denied):
            _log.error(
                "A part of the intake is away; trying again.",
                action="outage",
                target=error.target or None,
                error=error,
            )
        self._kind = (error.target, denied)
        self.text = describe(error)
        self._observer.away(error.target)

    def back(self) -> None:
        """Note that a turn of the loop worked."""
        if self._kind is None or self._clock.monotonic() < self._not_over_before:
            return
        _log.info("The intake goes on.", action="outage_over")
        self._kind, self.text = None, ""
        self._observer.away("")
