"""Owning a partition: the epoch that fences others out, the stored position, gaps, and the sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sentinel.errors import FatalError

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_TAKE_OVER = """
INSERT INTO consumer_offsets AS c
    (topic, partition, cluster_id, group_id, owner, first_offset, next_offset)
VALUES ($1, $2, $3, $4, $5, $6, $6)
ON CONFLICT (topic, partition) DO UPDATE
    SET epoch = c.epoch + 1, owner = excluded.owner, group_id = excluded.group_id, updated_at = now()
RETURNING c.epoch, c.incarnation, c.cluster_id, c.next_offset, c.last_timestamp_ms, c.halted,
    c.bad_allowance, (xmax = 0) AS created
"""

_GAP = """
WITH moved AS (
    UPDATE consumer_offsets SET next_offset = $4, lost = lost + ($4 - next_offset), last_timestamp_ms = NULL,
        updated_at = now()
    WHERE topic = $1 AND partition = $2 AND epoch = $3 AND next_offset < $4
    RETURNING incarnation, $5::bigint AS before)
INSERT INTO offset_gaps (topic, incarnation, partition, from_offset, to_offset)
SELECT $1, incarnation, $2, before, $4 FROM moved
ON CONFLICT DO NOTHING RETURNING id
"""


class TakenPartition(Struct, frozen=True, kw_only=True):
    """What the store knows of a partition at the moment it became ours."""

    topic: str
    partition: int
    epoch: int
    incarnation: int
    cluster_id: str
    next_offset: int
    last_timestamp_ms: int | None
    halted: str | None
    bad_allowance: int
    created: bool
    """True when this is the partition's first owner: its position is where consumption starts, no gap."""


async def take_over(
    conn: Connection, *, topic: str, partition: int, cluster_id: str, group_id: str, owner: str, start: int
) -> TakenPartition:
    """Raise the partition's epoch and become its owner.

    ``start`` is used only for a partition never seen before. From the commit of this statement on, every
    flush of a former owner fails its fence.
    """
    row = await conn.fetchrow(_TAKE_OVER, topic, partition, cluster_id, group_id, owner, start)
    if row is None:
        raise FatalError("the takeover of a partition returned no row")
    return TakenPartition(topic=topic, partition=partition, **dict(row))


async def record_gap(conn: Connection, taken: TakenPartition, beginning: int) -> bool:
    """Move past offsets that the log dropped before they were read; True when the gap is new."""
    row = await conn.fetchrow(_GAP, taken.topic, taken.partition, taken.epoch, beginning, taken.next_offset)
    return row is not None


async def owned_halts(
    conn: Connection, partitions: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int], str | None]:
    """Halt reason of each partition (topic, partition, epoch) that is still ours."""
    rows = await conn.fetch(
        "SELECT c.topic, c.partition, c.halted FROM consumer_offsets c"
        " JOIN unnest($1::text[], $2::int[], $3::bigint[]) AS w(topic, partition, epoch)"
        " USING (topic, partition) WHERE c.epoch = w.epoch",
        [p[0] for p in partitions],
        [p[1] for p in partitions],
        [p[2] for p in partitions],
    )
    return {(row["topic"], row["partition"]): row["halted"] for row in rows}


async def sums_of(conn: Connection, topic: str) -> dict[str, int]:
    """Items of a topic by ``outcome`` or ``outcome(reason)``, all incarnations and partitions together."""
    rows = await conn.fetch(
        "SELECT outcome, reason, sum(n)::bigint AS n FROM partition_outcomes WHERE topic = $1"
        " GROUP BY outcome, reason ORDER BY outcome, reason",
        topic,
    )
    return {f"{r['outcome']}({r['reason']})" if r["reason"] else r["outcome"]: r["n"] for r in rows}


async def adopt_volatile_log(conn: Connection, cluster_id: str, *, prefix: str) -> int:
    """Accept a broker without memory that started anew: its topics begin again, as other incarnations.

    Only positions of clusters whose id begins with ``prefix`` are touched; those of a real broker stay for
    ``sentinel offsets reset``. Returns the number of partitions; each is an entry of the audit log.
    """
    rows = await conn.fetch(
        "WITH moved AS ("
        " UPDATE consumer_offsets SET incarnation = incarnation + 1, epoch = epoch + 1, cluster_id = $1,"
        " first_offset = 0, next_offset = 0, records = 0, holes = 0, lost = 0, last_timestamp_ms = NULL,"
        " halted = NULL, halted_detail = NULL, halted_at = NULL, updated_at = now()"
        " WHERE starts_with(cluster_id, $2) AND cluster_id <> $1 RETURNING topic, partition, incarnation)"
        " INSERT INTO audit_log (actor, action, subject, detail)"
        " SELECT 'embedded', 'adopt a new embedded broker', topic || '/' || partition,"
        " jsonb_build_object('incarnation', incarnation) FROM moved RETURNING id",
        cluster_id,
        prefix,
    )
    return len(rows)
