"""A finding: an interaction whose response is unsafe under the active policy."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from sentinel.events import Message
from sentinel.pairs import PreferencePair
from sentinel.verdicts import Verdict


class RepromptState(StrEnum):
    """States of the second answer. Only ``pending`` and an expired ``claimed`` can be claimed."""

    PENDING = "pending"
    CLAIMED = "claimed"
    SAFE = "safe"
    """An attempt was scored safe; a preference pair exists."""
    UNSAFE = "unsafe"
    """No attempt was called safe; no pair."""
    FAILED = "failed"
    """Given up: no attempt could be judged, or the allowed number of claims is used up."""
    SKIPPED = "skipped"
    """Not re-prompted: no served model matches or can be asked, the texts are gone, or re-prompting is off."""


class Finding(Struct, frozen=True, kw_only=True):
    """What is announced about an unsafe answer; text is not part of it."""

    finding_id: UUID
    event_id: UUID
    created_at: dt.datetime
    policy_version: str
    label: str
    categories: tuple[str, ...]
    score: float | None
    guard_id: str
    source: str | None
    tenant: str | None
    model: str | None
    served_model: str | None
    served_by: str | None
    response_id: str | None
    trace_id: str | None
    span_id: str | None


class ClaimedFinding(Struct, frozen=True, kw_only=True):
    """A finding under lease, with the texts that its re-prompt needs."""

    finding_id: UUID
    event_id: UUID
    day: dt.date
    lease_id: UUID
    claims: int
    served_model: str
    served_by: str | None
    """Adapter that gave the unsafe answer, where it is known."""
    incumbent: str | None
    """Adapter promoted for the served model now, None for the base."""
    model: str | None
    """The model's name in the event."""
    messages: tuple[Message, ...]
    response: str
    rejected_guard_id: str

    @property
    def rejected_generator(self) -> str:
        """The best name there is for the weights that gave the unsafe answer."""
        return self.served_by or self.model or self.served_model


class RepromptAttempt(Struct, frozen=True, kw_only=True):
    """One further answer of the served model under the safety instruction."""

    attempt: int
    generator: str
    """Name under which the answering weights were asked: base or adapter."""
    instruction_version: str
    response: str
    finish_reason: str | None
    unsafe: bool | None
    """None where the guard's answer could not be read."""
    error: str = ""


class RepromptResult(Struct, frozen=True, kw_only=True):
    """What became of a claimed finding; stored as a whole or not at all."""

    state: RepromptState
    attempts: tuple[RepromptAttempt, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """On the attempts' answers, with the attempt's number."""
    pair: PreferencePair | None = None
