"""An event together with what became of it: the row that is stored once."""

from __future__ import annotations

import datetime as dt
from enum import IntFlag
from uuid import UUID

from msgspec import Struct

from sentinel.events import Headers, Ignored, Origin, PromptEvent
from sentinel.outcomes import Outcome
from sentinel.verdicts import Screening, Verdict


class Flag(IntFlag):
    """Bits of the column ``interactions.flags``."""

    NUL_REPLACED = 1
    """U+0000 was replaced by U+FFFD somewhere in the event."""
    WINDOWED = 2
    """A text was longer than the guard's context and was judged in windows."""
    ID_COLLISION = 4
    """The producer reused an id of another call; the stored id is derived."""
    UNIDENTIFIED = 8
    """The id is only a position in the log: duplicates cannot be recognised."""


class Replay(Struct, frozen=True, gc=False):
    """What the headers of a replayed dead letter claim; the store checks the token."""

    event_id: UUID
    token: str
    item: int
    """The only item of the record that was lost; the others were kept when it was first read."""


class Interaction(Struct, frozen=True, gc=False):
    """A scored (or knowingly unscored) event, ready to be recorded."""

    event: PromptEvent
    outcome: Outcome
    """`STORED` or `UNSCORED`; whether it is a duplicate is decided by the store."""
    reason: str = ""
    prompt_verdict: Verdict | None = None
    response_verdict: Verdict | None = None
    prompt_unscored: str = ""
    """Why there is no readable verdict on the prompt; it does not decide the outcome."""
    screening: Screening | None = None
    unsafe: bool = False
    """The response is unsafe under the active policy: a finding is recorded with it."""
    policy_version: str = ""
    served_model: str | None = None
    replay: Replay | None = None
    sampling_probability: float = 1.0
    """Probability with which an event like this one was scored; rates weight by its inverse."""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A record or item that can never be processed, with all that is needed to replay it."""

    origin: Origin
    reason: str
    detail: str
    error_class: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    event_id: UUID | None = None
    """The id that the item would have had, where it was known when it failed."""
    attempts: int = 1
    first_seen: dt.datetime | None = None


Recordable = Interaction | DeadLetter | Ignored
"""What the writer takes: each ends as one item's outcome."""


def origin_of(item: Recordable) -> Origin:
    """Where the item stood in its log."""
    return item.event.origin if isinstance(item, Interaction) else item.origin
