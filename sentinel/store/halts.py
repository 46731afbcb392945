"""Partitions that stopped on purpose: a flood of bad records, or a log that is not the one known.

Setting a halt is fenced by the partition's epoch. `resume` clears only a flood, `reset` only a foreign log: a
wrong one would either lose the position or accept another log's records as the known ones. Both write to
``audit_log``. All functions take a raw asyncpg connection inside a transaction.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.store.headers import storable

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]


class HaltReason(StrEnum):
    """Why a partition is halted; each has one command that clears it."""

    FLOOD = "flood"
    """Too many bad records: ``sentinel dlq resume``."""
    FOREIGN = "foreign"
    """The log behind the stored position is another one: ``sentinel offsets reset``."""


class PartitionState(Struct, frozen=True, kw_only=True):
    """A partition's position and halt as stored."""

    topic: str
    partition: int
    cluster_id: str
    group_id: str
    incarnation: int
    epoch: int
    owner: str
    next_offset: int
    halted: str | None
    halted_detail: str | None
    halted_at: dt.datetime | None
    bad_allowance: int


_COLUMNS = ", ".join(PartitionState.__struct_fields__)


async def set_halt(
    conn: Connection, topic: str, partition: int, reason: str, detail: str, *, epoch: int
) -> bool:
    """Halt a partition that is still ours; False where the epoch moved on and the halt is not ours to set.

    The first halt of a partition stays: a second reason would let the wrong command clear it.
    Raises ValueError for a reason that is no `HaltReason`.
    """
    found = await conn.fetchval(
        "UPDATE consumer_offsets SET halted = coalesce(halted, $4),"
        " halted_detail = CASE WHEN halted IS NULL THEN $5 ELSE halted_detail END,"
        " halted_at = coalesce(halted_at, now()), updated_at = now()"
        " WHERE topic = $1 AND partition = $2 AND epoch = $3 RETURNING TRUE",
        topic,
        partition,
        epoch,
        HaltReason(reason).value,
        storable(detail),
    )
    return bool(found)


async def read_halts(conn: Connection) -> list[PartitionState]:
    """Every halted partition, by topic and partition."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM consumer_offsets WHERE halted IS NOT NULL ORDER BY topic, partition"  # noqa: S608 - our own field names
    )
    return [PartitionState(**dict(row)) for row in rows]


async def resume(conn: Connection, topic: str, partition: int, *, allow: int, actor: str) -> PartitionState:
    """Clear a flood halt and let ``allow`` further bad records pass before the next one.

    ``bad_allowance`` becomes ``allow`` (it does not add up over repeated calls); the owner spends it.
    Returns the state as it was.

    Raises:
        CommandError: ``allow`` is negative, the partition is unknown, or it is not halted by a flood.
    """
    if allow < 0:
        raise CommandError("--allow is a number of records, 0 or more")
    state = await _locked(conn, topic, partition)
    if state.halted is None:
        raise CommandError(f"{topic}/{partition} is not halted: nothing to resume")
    if state.halted != HaltReason.FLOOD:
        raise CommandError(
            f"{topic}/{partition} is halted as {state.halted}, not by a flood:"
            " `sentinel offsets reset` clears it"
        )
    await conn.execute(
        "UPDATE consumer_offsets SET halted = NULL, halted_detail = NULL, halted_at = NULL,"
        " bad_allowance = $3, updated_at = now() WHERE topic = $1 AND partition = $2",
        topic,
        partition,
        allow,
    )
    await _audit(conn, actor, "dlq resume", state, {"allow": allow})
    return state


async def reset(
    conn: Connection, topic: str, partition: int, *, next_offset: int, cluster_id: str, actor: str
) -> PartitionState:
    """Accept the log that is there now: a new incarnation that starts at ``next_offset``.

    The epoch rises too, so that whatever the running owner still holds of the old log fails its fence, and
    it takes the partition over again. The sums of the old incarnation stay in ``partition_outcomes``.
    Returns the state as it was.

    Raises:
        CommandError: the partition is unknown, or it is not halted as foreign.
    """
    state = await _locked(conn, topic, partition)
    if state.halted is None:
        raise CommandError(f"{topic}/{partition} is not halted: its position needs no reset")
    if state.halted != HaltReason.FOREIGN:
        raise CommandError(
            f"{topic}/{partition} is halted by a {state.halted}, its log is the known one:"
            " `sentinel dlq resume` clears it"
        )
    await conn.execute(
        "UPDATE consumer_offsets SET halted = NULL, halted_detail = NULL, halted_at = NULL,"
        " incarnation = incarnation + 1, epoch = epoch + 1, cluster_id = $4, first_offset = $3,"
        " next_offset = $3, records = 0, holes = 0, lost = 0, last_timestamp_ms = NULL, bad_allowance = 0,"
        " updated_at = now() WHERE topic = $1 AND partition = $2",
        topic,
        partition,
        next_offset,
        cluster_id,
    )
    await _audit(
        conn,
        actor,
        "offsets reset",
        state,
        {
            "from": state.next_offset,
            "to": next_offset,
            "incarnation": state.incarnation + 1,
            "cluster": cluster_id,
        },
    )
    return state


async def _locked(conn: Connection, topic: str, partition: int) -> PartitionState:
    row = await conn.fetchrow(
        f"SELECT {_COLUMNS} FROM consumer_offsets WHERE topic = $1 AND partition = $2 FOR UPDATE",  # noqa: S608 - our own field names
        topic,
        partition,
    )
    if row is None:
        raise CommandError(
            f"no position is stored for {topic}/{partition}: check the topic and the partition"
        )
    return PartitionState(**dict(row))


async def _audit(
    conn: Connection, actor: str, action: str, state: PartitionState, detail: dict[str, object]
) -> None:
    await conn.execute(
        "INSERT INTO audit_log (actor, action, subject, detail) VALUES ($1, $2, $3, $4::text::jsonb)",
        storable(actor),
        action,
        f"{state.topic}/{state.partition}",
        orjson.dumps({**detail, "was": state.halted, "why": state.halted_detail}).decode(),
    )
