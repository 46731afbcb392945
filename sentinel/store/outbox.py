"""The outbox: records that leave for Kafka, written with the rows that they announce.

`insert` belongs to the transaction that stores what is announced. The relay claims inside a transaction of
its own, sends, and marks before it commits: a crash in between sends again, so topics are at least once.
All functions take a raw asyncpg connection inside a transaction, and raise asyncpg's errors.
"""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sentinel.announcements import OutboxRow
from sentinel.events import Headers
from sentinel.store.headers import headers_from_json, headers_to_json

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

__all__ = [
    "ADVISORY_CLASS",
    "Backlog",
    "ClaimedRow",
    "OutboxRow",
    "backlog",
    "claim",
    "delete_sent",
    "insert",
    "lock_order",
    "mark_sent",
]

ADVISORY_CLASS = 0x5E17
"""First half of the advisory lock of an ordered topic; the second half is the topic's CRC-32."""

_INSERT = """
INSERT INTO outbox (topic, key, headers, payload)
SELECT topic, key, headers::jsonb, payload
FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bytea[]) WITH ORDINALITY
    AS r(topic, key, headers, payload, n)
ORDER BY n
"""

_CLAIM = """
SELECT id, topic, key, headers::text AS headers, payload, created_at FROM (
    SELECT *, sum(coalesce(length(payload), 0)) OVER (ORDER BY id) - coalesce(length(payload), 0) AS before
    FROM (
        SELECT id, topic, key, headers, payload, created_at FROM outbox
        WHERE sent_at IS NULL AND topic = ANY($1::text[])
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS locked
) AS sized
WHERE before < $3 ORDER BY id
"""

_BACKLOG = """
SELECT count(*) AS n, min(created_at) AS oldest
FROM (SELECT created_at FROM outbox WHERE topic = $1 AND sent_at IS NULL ORDER BY id LIMIT $2) AS unsent
"""


class ClaimedRow(Struct, frozen=True, gc=False):
    """A row locked by this transaction; ``id`` gives the order of writing within a topic."""

    id: int
    topic: str
    key: bytes | None
    headers: Headers
    payload: bytes | None
    created_at: dt.datetime


class Backlog(Struct, frozen=True):
    """How much has not left yet."""

    rows: int
    """Unsent rows, counted up to the limit that was asked for."""
    oldest: dt.datetime | None


async def insert(conn: Connection, rows: Sequence[OutboxRow]) -> None:
    """Write rows in their order; they become visible to a relay with the caller's commit."""
    if rows:
        await conn.execute(
            _INSERT,
            [row.topic for row in rows],
            [row.key for row in rows],
            [headers_to_json(row.headers) for row in rows],
            [row.payload for row in rows],
        )


async def claim(
    conn: Connection, topics: Sequence[str], *, limit: int, max_bytes: int = 8 * 1024 * 1024
) -> list[ClaimedRow]:
    """Lock up to ``limit`` unsent rows of ``topics`` in the order of their ids.

    At least one row and otherwise no more than about ``max_bytes`` of payload come back, so that a backlog
    of large dead letters does not fill memory. Rows that another relay holds are passed over.
    """
    rows = await conn.fetch(_CLAIM, list(topics), limit, max_bytes)
    return [
        ClaimedRow(
            row["id"],
            row["topic"],
            row["key"],
            headers_from_json(row["headers"]),
            row["payload"],
            row["created_at"],
        )
        for row in rows
    ]


async def lock_order(conn: Connection, topic: str) -> bool:
    """Become the only relay of an ordered topic until this transaction ends; False when another one is."""
    return bool(
        await conn.fetchval(
            "SELECT pg_try_advisory_xact_lock($1, $2)", ADVISORY_CLASS, _signed(zlib.crc32(topic.encode()))
        )
    )


async def mark_sent(conn: Connection, row_ids: Sequence[int]) -> None:
    """Say that the broker acknowledged these rows; takes effect with the commit."""
    await conn.execute("UPDATE outbox SET sent_at = now() WHERE id = ANY($1::bigint[])", list(row_ids))


async def backlog(conn: Connection, topic: str, *, limit: int = 10_000) -> Backlog:
    """Unsent rows of a topic and the oldest one's time; counting stops at ``limit``, so it stays cheap."""
    (row,) = await conn.fetch(_BACKLOG, topic, limit)
    return Backlog(row["n"], row["oldest"])


async def delete_sent(conn: Connection, *, before: dt.datetime, limit: int = 10_000) -> int:
    """Drop up to ``limit`` rows sent before a moment; returns how many were dropped."""
    status = await conn.execute(
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE sent_at < $1 ORDER BY sent_at LIMIT $2)",
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value
