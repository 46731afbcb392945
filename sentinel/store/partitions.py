"""Day partitions: made ahead, made on demand, listed, and taken off again.

A partition is named after its table and its UTC day, ``interactions_20260131``. It is made as a table of its
own and then attached: CREATE TABLE ... PARTITION OF would lock the parent against every writer, ATTACH of an
empty table does not.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

import asyncpg
from msgspec import Struct

from sentinel.store.tables import PARTITIONED

LOCK_ID = 0x73656E74_70617274
"""Advisory lock (of a transaction) of whoever makes partitions: "sentpart"."""

_NAME = re.compile(r"_(\d{4})(\d{2})(\d{2})$")

_CHILDREN = """
SELECT c.relname AS name, i.inhdetachpending AS pending
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass($1)
ORDER BY c.relname
"""

_LEFT_BEHIND = """
SELECT c.relname AS name
FROM pg_class c
WHERE c.relkind = 'r' AND NOT c.relispartition
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass($1))
  AND c.relname ~ ('^' || $1 || '_[0-9]{8}$')
ORDER BY c.relname
"""


class Partition(Struct, frozen=True):
    """One day of one table."""

    table: str
    day: dt.date
    detaching: bool = False
    """A DETACH CONCURRENTLY was interrupted; only FINALIZE can be done with it."""

    @property
    def name(self) -> str:
        """The partition's own table name."""
        return partition_name(self.table, self.day)


def partition_for(moment: dt.datetime) -> dt.date:
    """The day whose partitions take rows received at ``moment``. Raises ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone belongs to no day")
    return moment.astimezone(dt.UTC).date()


def partition_name(table: str, day: dt.date) -> str:
    """``table_YYYYMMDD``."""
    return f"{table}_{day:%Y%m%d}"


async def ensure_partitions(
    conn: asyncpg.Connection[Any],
    from_day: dt.date,
    days_ahead: int,
    *,
    tables: Sequence[str] = PARTITIONED,
) -> list[str]:
    """Make the partitions of ``from_day`` and the ``days_ahead`` days after it; returns the names made.

    Safe beside writers and beside others doing the same. Runs in a transaction of its own (a savepoint inside
    the caller's). Raises what asyncpg raises, LockNotAvailableError where a table stays locked for 5 s.
    """
    days = [from_day + dt.timedelta(days=ahead) for ahead in range(days_ahead + 1)]
    if not await _missing(conn, tables, days):
        return []
    async with conn.transaction():
        # A queue behind somebody's long lock on the parent would itself hold up every writer behind it.
        await conn.execute("SET LOCAL lock_timeout = '5s'")
        await conn.execute("SELECT pg_advisory_xact_lock($1)", LOCK_ID)
        made = await _missing(conn, tables, days)
        for partition in made:
            await _attach(conn, partition)
    return [partition.name for partition in made]


async def create_missing(conn: asyncpg.Connection[Any], day: dt.date) -> list[str]:
    """Make all partitions of one day, for the flush that met their absence; returns the names made.

    Must be called outside the failed transaction. Raises what asyncpg raises.
    """
    return await ensure_partitions(conn, day, 0)


async def partitions(conn: asyncpg.Connection[Any], table: str) -> list[Partition]:
    """The attached partitions of ``table`` by day, those being detached included."""
    rows = await conn.fetch(_CHILDREN, table)
    return [
        Partition(table, day, row["pending"]) for row in rows if (day := _day_of(row["name"])) is not None
    ]


async def left_behind(conn: asyncpg.Connection[Any], table: str) -> list[Partition]:
    """Tables that were partitions of ``table`` and were detached, but not dropped."""
    rows = await conn.fetch(_LEFT_BEHIND, table)
    return [Partition(table, day) for row in rows if (day := _day_of(row["name"])) is not None]


async def existing_days(conn: asyncpg.Connection[Any], table: str) -> list[dt.date]:
    """Days of ``table`` that rows can be written to and read from, oldest first."""
    return [partition.day for partition in await partitions(conn, table) if not partition.detaching]


async def drop_partition(
    conn: asyncpg.Connection[Any], partition: Partition, *, timeout: float | None = None
) -> None:
    """Detach one partition without blocking writers, and drop it. Must not run inside a transaction.

    Each of its steps may be the last before a crash; `partitions` and `left_behind` then show what is left,
    and calling this again goes on from there. DETACH waits for every older transaction on the table, at most
    ``timeout`` seconds. Raises what asyncpg raises.
    """
    attached = {child.day: child for child in await partitions(conn, partition.table)}.get(partition.day)
    if attached is not None:
        how = "FINALIZE" if attached.detaching else "CONCURRENTLY"
        await conn.execute(
            f'ALTER TABLE "{partition.table}" DETACH PARTITION "{partition.name}" {how}', timeout=timeout
        )
    await conn.execute(f'DROP TABLE IF EXISTS "{partition.name}"', timeout=timeout)


async def _missing(
    conn: asyncpg.Connection[Any], tables: Sequence[str], days: Sequence[dt.date]
) -> list[Partition]:
    there = {(table, child.day) for table in tables for child in await partitions(conn, table)}
    return [Partition(table, day) for day in days for table in tables if (table, day) not in there]


async def _attach(conn: asyncpg.Connection[Any], partition: Partition) -> None:
    after = partition.day + dt.timedelta(days=1)
    # A detached partition that was never dropped keeps its rows and its place.
    await conn.execute(
        f'CREATE TABLE IF NOT EXISTS "{partition.name}" '
        f'(LIKE "{partition.table}" '
        f"INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"
    )
    await conn.execute(
        f'ALTER TABLE "{partition.table}" ATTACH PARTITION "{partition.name}" '
        f"FOR VALUES FROM ('{partition.day}') TO ('{after}')"
    )


def _day_of(name: str) -> dt.date | None:
    match = _NAME.search(name)
    return dt.date(int(match[1]), int(match[2]), int(match[3])) if match else None
