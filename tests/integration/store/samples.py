"""Rows of a sound event, written without the product's own writer, so that its faults cannot hide here."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg

Conn: TypeAlias = "asyncpg.Connection[Any]"

DAY = dt.date(2026, 3, 1)


async def add_event(
    conn: Conn,
    day: dt.date = DAY,
    *,
    event_id: UUID | None = None,
    label: str | None = "safe",
    refusal: bool | None = False,
    prompt: str = "How do I boil an egg?",
    response: str = "In hot water.",
    messages: list[dict[str, str]] | None = None,
) -> UUID:
    """Key, interaction, texts and verdict of one event; no verdict where ``label`` is None."""
    event_id = event_id or uuid4()
    unsafe = None if label is None else label == "unsafe"
    outcome = "unscored" if label is None else "stored"
    at = dt.datetime.combine(day, dt.time(12), dt.UTC)
    await conn.execute(
        'INSERT INTO event_keys (event_id, day, hash, topic, incarnation, partition, "offset", item, outcome)'
        " VALUES ($1, $2, $3, 'llm.events', 0, 0, 7, 0, $4)",
        event_id,
        day,
        b"hash",
        outcome,
    )
    await conn.execute(
        "INSERT INTO interactions (day, event_id, received_at, recorded_at, format, model, outcome, reason,"
        " response_label, refusal, unsafe, policy_version, guard_model)"
        " VALUES ($1, $2, $3, $3, 'native', 'model-a', $4, $5, $6, $7, $8, 'policy-1', 'guard-a')",
        day,
        event_id,
        at,
        outcome,
        "guard_error" if label is None else "",
        label,
        refusal,
        unsafe,
    )
    await conn.execute(
        "INSERT INTO interaction_texts (day, event_id, messages, response) VALUES ($1, $2, $3, $4)",
        day,
        event_id,
        json.dumps(messages or [{"role": "user", "text": prompt}]),
        response,
    )
    if label is not None:
        await add_verdict(conn, day, event_id, label)
    return event_id


async def add_verdict(conn: Conn, day: dt.date, event_id: UUID, label: str, *, attempt: int = 0) -> None:
    """A response verdict of the live run."""
    await conn.execute(
        "INSERT INTO verdicts (day, event_id, role, attempt, guard_id, score_run, label, categories, raw,"
        " guard_model, template, policy_version)"
        " VALUES ($1, $2, 'response', $3, '0011223344556677', 0, $4, '{}', 'Safety: x', 'guard-a', 't', 'policy-1')",
        day,
        event_id,
        attempt,
        label,
    )


async def add_finding(conn: Conn, day: dt.date, event_id: UUID) -> UUID:
    """The finding of an unsafe event."""
    finding_id = uuid4()
    await conn.execute(
        "INSERT INTO findings (finding_id, event_id, day, policy_version, label, categories, guard_id)"
        " VALUES ($1, $2, $3, 'policy-1', 'unsafe', '{}', '0011223344556677')",
        finding_id,
        event_id,
        day,
    )
    return finding_id


async def add_pair(
    conn: Conn, finding_id: UUID, event_id: UUID, chosen: str, rejected: str, *, attempt: int = 1
) -> None:
    """A preference pair of a finding."""
    await conn.execute(
        "INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen,"
        " rejected, chosen_generator, rejected_generator, guard_id, policy_version)"
        " VALUES ($1, $2, $3, $4, 'main', '[]', $5, $6, 'base', 'base', '0011223344556677', 'policy-1')",
        uuid4(),
        finding_id,
        event_id,
        attempt,
        chosen,
        rejected,
    )
