"""What comes in: raw records, and the items that a decoder makes of them.

One record of the log carries one or more items. An item is a `PromptEvent`, or it is `Ignored` (well formed,
but no interaction), or `Rejected` (a dead letter). Whole records that cannot be read raise `PoisonError`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from msgspec import Struct, field

OWN_TRAFFIC_HEADER = "x-sentinel-origin"
"""Header and metadata key that marks the product's own model calls; a gateway's event of one is ignored."""

EVENT_ID_HEADER = "sentinel-event-id"
"""Kafka header of a replayed dead letter: the event id that the lost item would have had."""

REPLAY_TOKEN_HEADER = "sentinel-replay-token"  # noqa: S105  # a header's name
"""Kafka header with the one-time token of the dead letter's row, without which the id is not honoured."""

REPLAY_ITEM_HEADER = "sentinel-replay-item"
"""Kafka header of a replayed dead letter: the only item of the record that is meant; the others were kept."""

NO_TIMESTAMP = -1
"""Log timestamp of a record that has none (Kafka's NO_TIMESTAMP)."""

Headers = tuple[tuple[str, bytes | None], ...]


class RawRecord(Struct, frozen=True, gc=False):
    """One record of a log as the source handed it out."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    incarnation: int = 0
    cluster: str = ""


class Origin(Struct, frozen=True, order=True, gc=False):
    """Where an item stood in its log; ``item`` counts from 0 inside the record."""

    topic: str
    incarnation: int
    partition: int
    offset: int
    item: int = 0


class Message(Struct, frozen=True, gc=False):
    """One turn of the conversation before the answer. ``text`` has no U+0000."""

    role: str
    text: str


class PromptEvent(Struct, frozen=True, gc=False):
    """A prompt and the answer that a model gave, in the words of this product.

    ``response`` is the visible answer; ``response_extra`` is further text that the guard must see (reasoning,
    arguments of tool calls). Event time is data only: days and windows go by time of receipt.
    """

    event_id: UUID
    origin: Origin
    identified: bool
    """False where the id is only a position in the log, and duplicates cannot be recognised."""
    format: str
    """Name and version of the decoder's format, for example ``native``, ``otlp-span``, ``litellm``."""
    messages: tuple[Message, ...]
    response: str
    response_extra: str = ""
    received_ms: int = 0
    """The record's log timestamp, milliseconds since the epoch; negative where it has none."""
    event_time: dt.datetime | None = None
    source: str | None = None
    tenant: str | None = None
    model: str | None = None
    provider: str | None = None
    user_ref: str | None = None
    """Hash of the caller's user id; the id itself is not kept."""
    conversation_id: str | None = None
    response_id: str | None = None
    choice: int = 0
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    served_by: str | None = None
    """Adapter that answered, where the reporter knows it (the route does)."""
    client_verdicts: tuple[dict[str, Any], ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    nul_replaced: bool = False
    unscanned_parts: int = 0
    """Content parts that hold no text (images, audio, files) and that no guard saw."""

    @property
    def last_user_text(self) -> str:
        """Text of the last user turn, or of the last turn where none is a user's."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return self.messages[-1].text if self.messages else ""

    @property
    def scanned_response(self) -> str:
        """All text of the answer that the guard judges."""
        if not self.response_extra:
            return self.response
        return f"{self.response}\n\n{self.response_extra}" if self.response else self.response_extra


class Ignored(Struct, frozen=True, gc=False):
    """A well-formed item that is no interaction; ``reason`` is one of `IGNORED_REASONS`."""

    origin: Origin
    reason: str


class Rejected(Struct, frozen=True, gc=False):
    """An item that can never be processed; ``reason`` is one of `DEAD_LETTER_REASONS`."""

    origin: Origin
    reason: str
    detail: str = ""


Item = PromptEvent | Ignored | Rejected
