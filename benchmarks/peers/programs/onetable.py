"""The one-table profile that every compared program fulfils: parse one event, store one row, once.

Parsing is the same code in all of them, so that the figures compare the frameworks and not JSON libraries.
This file runs in each peer's own environment: it needs nothing but msgspec.
"""

import json
import sys
from datetime import datetime
from uuid import UUID

import msgspec

DDL = """
CREATE TABLE {table} (
    event_id uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    source text NOT NULL,
    tenant text NOT NULL,
    model text NOT NULL,
    prompt text NOT NULL,
    response text NOT NULL
)
"""

COLUMNS = ("event_id", "occurred_at", "source", "tenant", "model", "prompt", "response")

UNNEST = """
INSERT INTO {table} (event_id, occurred_at, source, tenant, model, prompt, response)
SELECT * FROM unnest(
    $1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
ON CONFLICT (event_id) DO NOTHING
"""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str


class Event(msgspec.Struct, frozen=True):
    """What the profile keeps of an event; other keys are allowed and skipped."""

    id: UUID
    time: datetime
    source: str
    tenant: str
    model: str
    messages: list[Message]
    response: str

    @property
    def prompt(self) -> str:
        """The last turn, which the response answers."""
        return self.messages[-1].content


class Settings(msgspec.Struct, frozen=True):
    """Where a program reads and writes; its only command-line argument, as JSON."""

    bootstrap: str
    topic: str
    group: str
    host: str
    port: int
    user: str
    password: str
    database: str
    table: str


decode_event = msgspec.json.Decoder(Event).decode


def settings() -> Settings:
    """Read the settings from the command line."""
    return msgspec.convert(json.loads(sys.argv[1]), Settings)


def as_columns(events: list[Event]) -> tuple[list[object], ...]:
    """Turn events into one list per column, in the order of `COLUMNS`."""
    return (
        [e.id for e in events],
        [e.time for e in events],
        [e.source for e in events],
        [e.tenant for e in events],
        [e.model for e in events],
        [e.prompt for e in events],
        [e.response for e in events],
    )
