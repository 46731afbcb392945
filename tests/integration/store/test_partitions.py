from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from sentinel.store.engine import classify, libpq_url
from sentinel.store.partitions import (
    LOCK_ID,
    Partition,
    create_missing,
    drop_partition,
    ensure_partitions,
    existing_days,
    left_behind,
    partition_for,
    partitions,
)
from sentinel.store.tables import PARTITIONED
from tests.integration.store.samples import DAY, add_event
from tests.support.waiting import wait_until

pytestmark = pytest.mark.postgres14

Conn: TypeAlias = "asyncpg.Connection[Any]"
NEXT = DAY + dt.timedelta(days=1)


def test_a_moment_belongs_to_its_utc_day() -> None:
    west = dt.timezone(dt.timedelta(hours=-8))
    assert partition_for(dt.datetime(2026, 2, 28, 17, tzinfo=west)) == DAY
    assert partition_for(dt.datetime(2026, 3, 1, tzinfo=dt.UTC)) == DAY
    with pytest.raises(ValueError, match="zone"):
        partition_for(dt.datetime(2026, 3, 1))  # noqa: DTZ001 -- the case under test


async def test_partitions_are_made_once_for_every_table(conn: Conn) -> None:
    made = await ensure_partitions(conn, DAY, 2)
    assert len(made) == 3 * len(PARTITIONED)
    assert await ensure_partitions(conn, DAY, 2) == []
    assert len(await ensure_partitions(conn, DAY, 3)) == len(PARTITIONED)
    for table in PARTITIONED:
        assert await existing_days(conn, table) == [DAY + dt.timedelta(days=n) for n in range(4)]


async def test_a_partition_has_all_that_its_parent_has(conn: Conn) -> None:
    """The attached tables' indexes belong to the parent's, none is missing and none is there twice."""
    await create_missing(conn, DAY)
    for table in PARTITIONED:
        counts = await conn.fetchrow(
            "SELECT (SELECT count(*) FROM pg_index WHERE indrelid = to_regclass($1)),"
            " (SELECT count(*) FROM pg_index WHERE indrelid = to_regclass($2)),"
            " (SELECT count(*) FROM pg_index x JOIN pg_inherits h ON h.inhrelid = x.indexrelid"
            "  WHERE x.indrelid = to_regclass($2) AND x.indisvalid)",
            table,
            Partition(table, DAY).name,
        )
        assert counts is not None
        assert counts[0] == counts[1] == counts[2]
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(
            "INSERT INTO screenings VALUES ($1, $2, 's', 'perhaps', NULL, now())",
            DAY,
            uuid4(),
        )


async def test_a_row_of_a_missing_day_is_told_apart_and_then_written(conn: Conn) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await add_event(conn)
    assert classify(caught.value) == "missing_partition"
    await conn.execute("DELETE FROM event_keys")
    assert len(await create_missing(conn, DAY)) == len(PARTITIONED)
    await add_event(conn)
    assert await conn.fetchval("SELECT tableoid::regclass::text FROM interactions") == "interactions_20260301"


async def test_the_boundary_between_two_days(conn: Conn) -> None:
    await ensure_partitions(conn, DAY, 1)
    for day in (DAY, NEXT):
        await add_event(conn, day)
    rows = await conn.fetch("SELECT day, tableoid::regclass::text AS part FROM interactions ORDER BY day")
    assert [tuple(row) for row in rows] == [(DAY, "interactions_20260301"), (NEXT, "interactions_20260302")]


async def test_many_makers_at_once_make_each_partition_once(database_url: str) -> None:
    makers = [await asyncpg.connect(libpq_url(database_url)) for _ in range(6)]
    made = await asyncio.gather(*(ensure_partitions(maker, DAY, 5) for maker in makers))
    names = [name for part in made for name in part]
    assert len(names) == len(set(names)) == 6 * len(PARTITIONED)
    await asyncio.gather(*(maker.close() for maker in makers))


async def test_making_partitions_does_not_wait_for_a_writer(conn: Conn, other: Conn) -> None:
    """A writer in an open transaction holds a lock on the parent; CREATE … PARTITION OF would wait for it."""
    await create_missing(conn, DAY)
    async with other.transaction():
        await add_event(other)
        made = await asyncio.wait_for(ensure_partitions(conn, DAY, 3), 5)
    assert len(made) == 3 * len(PARTITIONED)


async def test_a_writer_does_not_wait_for_new_partitions(conn: Conn, other: Conn) -> None:
    await create_missing(conn, DAY)
    async with conn.transaction():
        await ensure_partitions(conn, DAY, 3)
        await asyncio.wait_for(add_event(other), 5)


async def test_a_held_lock_ends_the_attempt_in_time(conn: Conn, other: Conn) -> None:
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", LOCK_ID)
        with pytest.raises(asyncpg.LockNotAvailableError) as caught:
            await ensure_partitions(conn, DAY, 0)
    assert classify(caught.value) == "retry"
    assert len(await ensure_partitions(conn, DAY, 0)) == len(PARTITIONED)


async def test_a_dropped_day_is_gone_and_the_others_stay(conn: Conn) -> None:
    await ensure_partitions(conn, DAY, 1)
    for day in (DAY, NEXT):
        await add_event(conn, day)
    await drop_partition(conn, Partition("interactions", DAY))
    assert await existing_days(conn, "interactions") == [NEXT]
    assert await conn.fetchval("SELECT to_regclass('interactions_20260301')") is None
    assert await conn.fetchval("SELECT count(*) FROM interactions") == 1


async def test_a_table_left_by_a_crash_is_seen_and_dropped(conn: Conn) -> None:
    await create_missing(conn, DAY)
    await conn.execute("ALTER TABLE verdicts DETACH PARTITION verdicts_20260301")
    left = await left_behind(conn, "verdicts")
    assert left == [Partition("verdicts", DAY)]
    assert await left_behind(conn, "interactions") == []
    await drop_partition(conn, left[0])
    assert await left_behind(conn, "verdicts") == []


async def test_a_detached_day_that_is_needed_comes_back_with_its_rows(conn: Conn) -> None:
    await create_missing(conn, DAY)
    await add_event(conn)
    await conn.execute("ALTER TABLE interactions DETACH PARTITION interactions_20260301")
    assert await create_missing(conn, DAY) == ["interactions_20260301"]
    assert await conn.fetchval("SELECT count(*) FROM interactions") == 1


async def test_an_interrupted_detach_is_finished(conn: Conn, other: Conn) -> None:
    await ensure_partitions(conn, DAY, 1)
    await interrupt_detach(conn, other, "interactions", DAY)
    assert [part.detaching for part in await partitions(conn, "interactions")] == [True, False]
    assert await existing_days(conn, "interactions") == [NEXT]
    await drop_partition(conn, Partition("interactions", DAY))
    assert await existing_days(conn, "interactions") == [NEXT]
    assert await conn.fetchval("SELECT to_regclass('interactions_20260301')") is None


async def interrupt_detach(conn: Conn, other: Conn, table: str, day: dt.date) -> None:
    """Leave DETACH CONCURRENTLY half done: its second half waits for ``other``, and is cancelled there."""
    async with other.transaction():
        await other.fetchval(f"SELECT count(*) FROM {table}")
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await drop_partition(conn, Partition(table, day), timeout=1)
        # The driver's cancel request travels on a connection of its own: while it is under way the end of this
        # transaction would let the second half finish after all.
        pid = conn.get_server_pid()

        async def cancelled() -> bool:
            # Inside a transaction the first look would be shown again and again.
            await other.execute("SELECT pg_stat_clear_snapshot()")
            active = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'"
            return bool(await other.fetchval(active, pid) == 0)

        await wait_until(cancelled, timeout=10)
