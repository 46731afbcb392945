"""A preference pair: one prompt, an answer scored safe, and the unsafe one that it replaces."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from msgspec import Struct

from sentinel.events import Message


class PreferencePair(Struct, frozen=True, kw_only=True):
    """Both sides were judged by a full guard; the prompt is stored without the safety instruction."""

    pair_id: UUID
    finding_id: UUID
    event_id: UUID
    attempt: int
    served_model: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_generator: str
    rejected_generator: str
    guard_id: str
    policy_version: str
    created_at: dt.datetime
