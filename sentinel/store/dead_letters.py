"""Dead letters: records and items that can never be processed, kept whole until replayed or expired.

A replay sends the original bytes to their topic again, with the id that the lost item has and a token.
The token is honoured once, for one position in the log: whoever copies the headers onto another record
cannot choose that record's identity, and a crash between reading and storing does not spend the token.
All functions take a raw asyncpg connection and raise asyncpg's errors.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec import Struct

from sentinel import ids
from sentinel.events import Headers, Origin
from sentinel.interactions import DeadLetter
from sentinel.store.headers import headers_from_json, headers_to_json, storable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_INSERT = """
INSERT INTO dead_letters (dead_letter_id, topic, incarnation, partition, "offset", item, event_id,
    record_timestamp, key, value, headers, reason, detail, error_class, attempts, first_seen, code_version)
SELECT u.dead_letter_id, u.topic, u.incarnation, u.partition, u."offset", u.item, u.event_id,
    to_timestamp(u.timestamp_ms / 1000.0), u.key, u.value, u.headers::jsonb, u.reason, u.detail,
    u.error_class, u.attempts, u.first_seen, $16
FROM unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $5::bigint[], $6::int[], $7::uuid[], $8::bigint[],
    $9::bytea[], $10::bytea[], $11::text[], $12::text[], $13::text[], $14::text[],
    $15::int[], $17::timestamptz[])
    AS u(dead_letter_id, topic, incarnation, partition, "offset", item, event_id, timestamp_ms, key, value,
        headers, reason, detail, error_class, attempts, first_seen)
ON CONFLICT DO NOTHING RETURNING dead_letter_id
"""

_SUMMARY = """
SELECT dead_letter_id, topic, incarnation, partition, "offset", item, event_id, record_timestamp, reason,
    detail, error_class, attempts, code_version, first_seen, replayed_at, replays,
    coalesce(length(value), 0) AS size
FROM dead_letters
"""

_FILTER = """
WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR topic = $2)
    AND ($3::timestamptz IS NULL OR first_seen >= $3) AND ($4::timestamptz IS NULL OR first_seen < $4)
    AND ($5::boolean IS NULL OR (replays > 0) = $5)
ORDER BY first_seen, dead_letter_id LIMIT $6
"""

_PREPARE = """
UPDATE dead_letters SET event_id = coalesce(event_id, $3),
    replay_token = array_to_string(
        (string_to_array($2 || coalesce(E'\\n' || replay_token, ''), E'\\n'))[:$4], E'\\n')
WHERE dead_letter_id = $1 RETURNING event_id
"""

_CONSUME = """
UPDATE dead_letters SET replay_token =
    array_to_string(array_replace(string_to_array(replay_token, E'\\n'), $2, $2 || $4), E'\\n')
WHERE dead_letter_id = $1 AND event_id = $3 AND string_to_array(replay_token, E'\\n') && ARRAY[$2, $2 || $4]
RETURNING TRUE
"""

_TOKENS_KEPT = 20
"""Tokens of a letter that stay good: the record of an earlier replay may be read again after a later one."""

_TOKEN = re.compile(r"([0-9a-f]{32})\.[A-Za-z0-9_-]{24}")
"""The letter's id and 18 random bytes. What does not look like this never reaches SQL."""


class DeadLetterSummary(Struct, frozen=True, kw_only=True):
    """A dead letter without its bytes."""

    dead_letter_id: UUID
    topic: str
    incarnation: int
    partition: int
    offset: int
    item: int
    event_id: UUID | None
    record_timestamp: dt.datetime | None
    reason: str
    detail: str
    error_class: str
    attempts: int
    code_version: str
    first_seen: dt.datetime
    replayed_at: dt.datetime | None
    replays: int
    size: int
    """Bytes of the value."""


class DeadLetterRecord(Struct, frozen=True, kw_only=True):
    """A dead letter with the record that it came from."""

    summary: DeadLetterSummary
    key: bytes | None
    value: bytes | None
    headers: Headers
    cluster_id: str | None
    """Cluster of the partition's stored position, None where none is stored."""


class Filter(Struct, frozen=True, kw_only=True):
    """Which dead letters are meant; None does not restrict."""

    reason: str | None = None
    topic: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    replayed: bool | None = None


async def insert(
    conn: Connection, letters: Sequence[DeadLetter], *, now: dt.datetime, code_version: str
) -> list[DeadLetter]:
    """Write dead letters that are not there yet; returns the new ones, which are the ones to announce.

    Part of the flush's transaction. A log read again after a crash finds its letters written.
    """
    if not letters:
        return []
    by_id = {_id_of(letter): letter for letter in letters}
    ordered = sorted(by_id, key=lambda letter_id: letter_id.int)  # two flushes take the locks in one order
    rows = [by_id[letter_id] for letter_id in ordered]
    inserted = await conn.fetch(
        _INSERT,
        ordered,
        [row.origin.topic for row in rows],
        [row.origin.incarnation for row in rows],
        [row.origin.partition for row in rows],
        [row.origin.offset for row in rows],
        [row.origin.item for row in rows],
        [row.event_id for row in rows],
        [max(0, min(row.timestamp_ms, _LAST_MS)) for row in rows],
        [row.key for row in rows],
        [row.value for row in rows],
        [headers_to_json(row.headers) for row in rows],
        [row.reason for row in rows],
        [storable(row.detail) for row in rows],
        [storable(row.error_class) for row in rows],
        [row.attempts for row in rows],
        code_version,
        [row.first_seen or now for row in rows],
    )
    return [by_id[row["dead_letter_id"]] for row in inserted]


_LAST_MS = 253_402_300_799_000
"""End of the year 9999: a producer's clock may say anything, a timestamp column may not."""


async def find(conn: Connection, wanted: Filter, *, limit: int) -> list[DeadLetterSummary]:
    """Dead letters in the order in which they were first seen."""
    rows = await conn.fetch(
        _SUMMARY + _FILTER, wanted.reason, wanted.topic, wanted.since, wanted.until, wanted.replayed, limit
    )
    return [DeadLetterSummary(**dict(row)) for row in rows]


async def count_by_reason(conn: Connection) -> dict[str, int]:
    """How many dead letters are kept, by reason."""
    rows = await conn.fetch("SELECT reason, count(*) AS n FROM dead_letters GROUP BY reason ORDER BY reason")
    return {row["reason"]: row["n"] for row in rows}


async def get(conn: Connection, dead_letter_id: UUID) -> DeadLetterRecord | None:
    """A dead letter with its bytes, None where there is no such one."""
    row = await conn.fetchrow(_SUMMARY + "WHERE dead_letter_id = $1", dead_letter_id)
    if row is None:
        return None
    summary = DeadLetterSummary(**dict(row))
    body = await conn.fetchrow(
        "SELECT d.key, d.value, d.headers::text AS headers, o.cluster_id FROM dead_letters d"
        " LEFT JOIN consumer_offsets o USING (topic, partition) WHERE dead_letter_id = $1",
        dead_letter_id,
    )
    if body is None:
        return None  # retention dropped it in between
    return DeadLetterRecord(
        summary=summary,
        key=body["key"],
        value=body["value"],
        headers=headers_from_json(body["headers"]),
        cluster_id=body["cluster_id"],
    )


async def prepare_replay(conn: Connection, record: DeadLetterRecord) -> tuple[UUID, str]:
    """Store a fresh token and return it with the event id that the replayed item will have.

    The id is the one stored with the letter; where none was known it is made of the record's position, so
    that a second replay of the same letter is a duplicate of the first.

    Raises:
        LookupError: the letter is gone (retention).
    """
    origin = record.summary
    position_id = ids.event_id_from_log(
        record.cluster_id or "",
        origin.topic,
        origin.incarnation,
        origin.partition,
        origin.offset,
        origin.item,
    )
    token = f"{origin.dead_letter_id.hex}.{secrets.token_urlsafe(18)}"
    event_id = await conn.fetchval(_PREPARE, origin.dead_letter_id, token, position_id, _TOKENS_KEPT)
    if event_id is None:
        raise LookupError(f"dead letter {origin.dead_letter_id} is gone")
    return event_id, token


async def mark_replayed(conn: Connection, dead_letter_id: UUID) -> None:
    """Say that the broker acknowledged the replay."""
    await conn.execute(
        "UPDATE dead_letters SET replayed_at = now(), replays = replays + 1 WHERE dead_letter_id = $1",
        dead_letter_id,
    )


async def record_replay(conn: Connection, *, actor: str, sent: int, topic: str | None) -> None:
    """Note in the audit log who sent how many letters again; ``topic`` where it was not the letters' own."""
    await conn.execute(
        "INSERT INTO audit_log (actor, action, subject, detail)"
        " VALUES ($1, 'dlq replay', $2, jsonb_build_object('sent', $3::int))",
        storable(actor),
        topic or "",
        sent,
    )


async def consume_replay_token(conn: Connection, token: str, event_id: UUID, origin: Origin) -> bool:
    """Whether the record at ``origin`` may use ``event_id``: the token is the letter's, no other used it.

    The same origin may ask again, since a record read again after a crash must get the same id; another
    origin is refused from then on. Commit before the item is recorded, or in the same transaction.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        return False
    used = f" used by {origin.topic}/{origin.incarnation}/{origin.partition}/{origin.offset}"
    return bool(await conn.fetchval(_CONSUME, UUID(hex=match.group(1)), token, event_id, used))


def _id_of(letter: DeadLetter) -> UUID:
    origin = letter.origin
    return ids.dead_letter_id(origin.topic, origin.incarnation, origin.partition, origin.offset, origin.item)
