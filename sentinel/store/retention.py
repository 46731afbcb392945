"""Retention: partitions are made ahead, and what is older than its term goes, texts first.

With the texts of a day go the second answers of that time, and what a kept row quotes of them: the output of a
guard that nobody could read, and keys that an application sent beside its texts. Preference pairs have a term of
their own, since every data set is made of all of them anew.

One process at a time does this, whoever holds the advisory lock; the others' runs end at once. Nothing here
blocks a writer: partitions are detached concurrently, rows are deleted in batches of their own transactions.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import asyncpg
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.clock import Clock
from sentinel.settings import Retention
from sentinel.store.engine import raw_connection
from sentinel.store.partitions import (
    drop_partition,
    ensure_partitions,
    left_behind,
    partition_for,
    partitions,
)
from sentinel.store.tables import PARTITIONED

LOCK_ID = 0x73656E74_72657465
"""Advisory lock of the retention task: "sentrete"."""

BATCH = 5_000
"""Rows a delete takes at once: about 50 ms of locks and WAL, then the next transaction."""

STEP_TIMEOUT_S = 600.0
"""Longest wait of one step: DETACH CONCURRENTLY waits for every older transaction on the table."""

_TEXTS = "interaction_texts"

_QUOTES = (
    # A readable answer of a guard holds labels only; an unreadable one may repeat what the guard was shown.
    "UPDATE verdicts SET raw = '' WHERE day = $1 AND label = 'unparseable' AND raw <> ''",
    # Of the formats, only the product's own keeps keys that it does not know.
    "UPDATE interactions SET attrs = NULL WHERE day = $1 AND format = 'native' AND attrs IS NOT NULL",
)
"""What may repeat a text outside `interaction_texts`; each reads one day's partition."""


class Maintained(Struct, frozen=True, kw_only=True):
    """What one run of the retention task did."""

    ran: bool
    """False where another process holds the lock; everything else is then empty."""
    partitions_made: tuple[str, ...] = ()
    partitions_dropped: tuple[str, ...] = ()
    event_keys: int = 0
    """Keys deleted."""
    outbox: int = 0
    """Sent rows deleted."""
    dead_letters: int = 0
    """Dead letters deleted."""
    second_answers: int = 0
    """Second answers whose text was cleared."""
    pairs: int = 0
    """Preference pairs deleted."""


async def maintain(engine: AsyncEngine, retention: Retention, clock: Clock) -> Maintained:
    """Do all that is due: partitions ahead, then texts, then interactions and verdicts, then the rest.

    A term of n days keeps today and the n days before it, by UTC day of receipt. An interrupted run leaves
    nothing that the next one does not finish. Takes one connection of the pool for its whole run.
    Raises what asyncpg raises; what was done before stays done.
    """
    today = partition_for(clock.now())
    async with raw_connection(engine) as conn:
        # The lock belongs to this session: if the connection breaks, so does the claim to be the only one.
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_ID):
            return Maintained(ran=False)
        try:
            made = await ensure_partitions(conn, today, retention.partitions_ahead_days)
            first_text = today - dt.timedelta(days=retention.texts_days)
            dropped = await _drop_old(conn, (_TEXTS,), first_text)
            rest = tuple(table for table in PARTITIONED if table != _TEXTS)
            dropped += await _drop_old(conn, rest, today - dt.timedelta(days=retention.interactions_days))
            return Maintained(
                ran=True,
                partitions_made=tuple(made),
                partitions_dropped=tuple(dropped),
                event_keys=await _delete_keys(conn, today - dt.timedelta(days=retention.keys_days)),
                outbox=await _delete_sent(conn, clock.now() - dt.timedelta(days=retention.outbox_days)),
                dead_letters=await _delete_dead_letters(
                    conn, clock.now() - dt.timedelta(days=retention.dead_letters_days)
                ),
                second_answers=await _clear_second_answers(
                    conn, dt.datetime.combine(first_text, dt.time(), dt.UTC)
                ),
                pairs=await _delete_pairs(conn, clock.now() - dt.timedelta(days=retention.pairs_days)),
            )
        finally:
            if not conn.is_closed():
                await conn.execute("SELECT pg_advisory_unlock($1)", LOCK_ID)


async def _drop_old(conn: asyncpg.Connection[Any], tables: tuple[str, ...], first_kept: dt.date) -> list[str]:
    dropped = []
    for table in tables:
        # A day whose DETACH was interrupted is invisible to queries already: it is finished whatever its age.
        old = [part for part in await partitions(conn, table) if part.day < first_kept or part.detaching]
        # PostgreSQL detaches no other partition of a table while one is half detached.
        old.sort(key=lambda part: not part.detaching)
        old += [part for part in await left_behind(conn, table) if part.day < first_kept]
        for part in old:
            if table == _TEXTS:
                # Before the texts: an interrupted run finds the day again, and with it these.
                for statement in _QUOTES:
                    await conn.execute(statement, part.day, timeout=STEP_TIMEOUT_S)
            await drop_partition(conn, part, timeout=STEP_TIMEOUT_S)
            dropped.append(part.name)
    return dropped


async def _delete_keys(conn: asyncpg.Connection[Any], first_kept: dt.date) -> int:
    # By day, so that the block range index on `day` finds the old rows; `ctid` because the key is random.
    return await _in_batches(
        conn,
        "DELETE FROM event_keys WHERE ctid = ANY(ARRAY(SELECT ctid FROM event_keys WHERE day < $1 LIMIT $2))",
        first_kept,
    )


async def _delete_sent(conn: asyncpg.Connection[Any], before: dt.datetime) -> int:
    return await _in_batches(
        conn,
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE sent_at < $1 LIMIT $2)",
        before,
    )


async def _delete_dead_letters(conn: asyncpg.Connection[Any], before: dt.datetime) -> int:
    return await _in_batches(
        conn,
        "DELETE FROM dead_letters WHERE dead_letter_id IN "
        "(SELECT dead_letter_id FROM dead_letters WHERE first_seen < $1 LIMIT $2)",
        before,
    )


async def _clear_second_answers(conn: asyncpg.Connection[Any], before: dt.datetime) -> int:
    return await _in_batches(
        conn,
        "UPDATE reprompts SET response = '' WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM reprompts WHERE created_at < $1 AND response <> '' LIMIT $2))",
        before,
    )


async def _delete_pairs(conn: asyncpg.Connection[Any], before: dt.datetime) -> int:
    return await _in_batches(
        conn,
        "DELETE FROM preference_pairs WHERE pair_id IN "
        "(SELECT pair_id FROM preference_pairs WHERE created_at < $1 LIMIT $2)",
        before,
    )


async def _in_batches(conn: asyncpg.Connection[Any], statement: str, bound: dt.date | dt.datetime) -> int:
    total = 0
    while True:
        status = await conn.execute(statement, bound, BATCH)
        deleted = int(status.rpartition(" ")[2])
        total += deleted
        if deleted < BATCH:
            return total
