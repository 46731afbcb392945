"""What a guard client reports while it works: once a request, never once a text."""

from __future__ import annotations

from typing import Literal, Protocol

from sentinel.errors import PoisonError, SlowDownError
from sentinel.guards.wire import TimedOutError

Endpoint = Literal["batch", "single"]
CallOutcome = Literal["ok", "timeout", "throttled", "error", "refused"]
"""How one HTTP request ended."""


class Observer(Protocol):
    """Metrics implement it; it must not wait."""

    def request(self, endpoint: Endpoint, outcome: CallOutcome, seconds: float, texts: int) -> None:
        """One HTTP request with so many texts ended."""

    def retried(self, cause: CallOutcome) -> None:
        """A request is sent again, because the one before ended so."""


class Unobserved:
    """An observer for clients that nobody watches."""

    def request(self, endpoint: Endpoint, outcome: CallOutcome, seconds: float, texts: int) -> None:
        """Forget it."""

    def retried(self, cause: CallOutcome) -> None:
        """Forget it."""


def outcome_of(error: Exception) -> CallOutcome:
    """The word for a failed request."""
    match error:
        case SlowDownError():
            return "throttled"
        case TimedOutError():
            return "timeout"
        case PoisonError():
            return "refused"
        case _:
            return "error"
