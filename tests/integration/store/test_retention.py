from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.clock import ManualClock
from sentinel.settings import Retention
from sentinel.store import retention as module
from sentinel.store.engine import classify, raw_connection
from sentinel.store.orphans import CHECKS, find_orphans
from sentinel.store.partitions import ensure_partitions, existing_days, partitions
from sentinel.store.retention import LOCK_ID, Maintained, maintain
from sentinel.store.tables import PARTITIONED
from tests.integration.store.samples import add_event, add_finding, add_verdict
from tests.integration.store.test_partitions import interrupt_detach
from tests.support.waiting import WaitUntil

pytestmark = pytest.mark.postgres14

Conn: TypeAlias = "asyncpg.Connection[Any]"
TODAY = dt.date(2026, 6, 30)
TERMS = Retention(
    interactions_days=5,
    texts_days=2,
    keys_days=8,
    dead_letters_days=3,
    outbox_days=1,
    partitions_ahead_days=2,
)
CLOCK = ManualClock(dt.datetime.combine(TODAY, dt.time(10), dt.UTC))


def ago(days: int) -> dt.date:
    return TODAY - dt.timedelta(days=days)


async def _ten_days(conn: Conn) -> None:
    await ensure_partitions(conn, ago(9), 9)
    for days in range(10):
        await add_event(conn, ago(days))


async def test_each_thing_goes_at_its_own_term(engine: AsyncEngine, conn: Conn) -> None:
    await _ten_days(conn)
    done = await maintain(engine, TERMS, CLOCK)
    assert done.ran
    assert len(done.partitions_made) == 2 * len(PARTITIONED)
    assert await existing_days(conn, "interaction_texts") == [ago(n) for n in range(2, -3, -1)]
    for table in ("interactions", "verdicts", "screenings"):
        assert await existing_days(conn, table) == [ago(n) for n in range(5, -3, -1)]
    assert len(done.partitions_dropped) == 7 + 3 * 4
    assert done.partitions_dropped[0].startswith("interaction_texts_")
    assert done.event_keys == 1
    assert await conn.fetchval("SELECT min(day) FROM event_keys") == ago(8)
    again = await maintain(engine, TERMS, CLOCK)
    assert again == Maintained(ran=True)
    assert await find_orphans(conn) == dict.fromkeys(CHECKS, 0)


async def test_the_day_after_one_more_day_goes(engine: AsyncEngine, conn: Conn) -> None:
    await _ten_days(conn)
    await maintain(engine, TERMS, CLOCK)
    tomorrow = ManualClock(CLOCK.now() + dt.timedelta(days=1))
    done = await maintain(engine, TERMS, tomorrow)
    assert done.partitions_dropped == (
        f"interaction_texts_{ago(2):%Y%m%d}",
        *(f"{table}_{ago(5):%Y%m%d}" for table in ("interactions", "verdicts", "screenings")),
    )
    assert done.event_keys == 1


async def test_old_outbox_rows_and_dead_letters_go(engine: AsyncEngine, conn: Conn) -> None:
    for days, sent in ((0, True), (2, True), (2, False)):
        at = CLOCK.now() - dt.timedelta(days=days)
        await conn.execute(
            "INSERT INTO outbox (topic, created_at, sent_at) VALUES ('t', $1, $2)", at, at if sent else None
        )
    for offset, days in enumerate((0, 2, 4)):
        await conn.execute(
            'INSERT INTO dead_letters (dead_letter_id, topic, incarnation, partition, "offset", item, reason,'
            " error_class, code_version, first_seen) VALUES ($1, 't', 0, 0, $2, 0, 'invalid_json', 'E', '0', $3)",
            uuid4(),
            offset,
            CLOCK.now() - dt.timedelta(days=days),
        )
    done = await maintain(engine, TERMS, CLOCK)
    assert (done.outbox, done.dead_letters) == (1, 1)
    # What was not sent is kept, however old it is.
    assert await conn.fetchval("SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 1
    assert await conn.fetchval("SELECT count(*) FROM outbox") == 2
    assert await conn.fetchval("SELECT count(*) FROM dead_letters") == 2


async def test_keys_go_in_batches(engine: AsyncEngine, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    await conn.execute(
        'INSERT INTO event_keys (event_id, day, hash, topic, incarnation, partition, "offset", item, outcome)'
        " SELECT gen_random_uuid(), $1::date + (n % 2) * 20, '', 't', 0, 0, n, 0, 'stored'"
        " FROM generate_series(1, 90) n",
        ago(20),
    )
    assert (await maintain(engine, TERMS, CLOCK)).event_keys == 45
    assert await conn.fetchval("SELECT count(*) FROM event_keys") == 45


async def test_only_one_process_does_it(engine: AsyncEngine, conn: Conn) -> None:
    await _ten_days(conn)
    await conn.execute("SELECT pg_advisory_lock($1)", LOCK_ID)
    assert await maintain(engine, TERMS, CLOCK) == Maintained(ran=False)
    assert len(await existing_days(conn, "interactions")) == 10
    await conn.execute("SELECT pg_advisory_unlock($1)", LOCK_ID)
    assert (await maintain(engine, TERMS, CLOCK)).ran
    # The lock does not stay on a pooled connection.
    assert await conn.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_ID)


async def test_an_interrupted_detach_is_finished_by_the_next_run(
    engine: AsyncEngine, conn: Conn, other: Conn
) -> None:
    await _ten_days(conn)
    await interrupt_detach(conn, other, "interactions", ago(7))
    done = await maintain(engine, TERMS, CLOCK)
    assert f"interactions_{ago(7):%Y%m%d}" in done.partitions_dropped
    assert await existing_days(conn, "interactions") == [ago(n) for n in range(5, -3, -1)]


async def test_a_run_whose_session_is_killed_is_finished_by_the_next(
    engine: AsyncEngine, conn: Conn, other: Conn, wait_until: WaitUntil
) -> None:
    """A reader's transaction holds the first DETACH in its waiting half; there the session dies."""
    await _ten_days(conn)
    async with other.transaction():
        await other.fetchval("SELECT count(*) FROM interaction_texts")
        run = asyncio.create_task(maintain(engine, TERMS, CLOCK))

        async def detaching() -> int | None:
            pid: int | None = await conn.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
                " AND wait_event_type = 'Lock' AND query LIKE '%DETACH%CONCURRENTLY%' AND pid <> pg_backend_pid()"
            )
            return pid

        assert await conn.fetchval("SELECT pg_terminate_backend($1)", await wait_until(detaching))
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
            await run
        assert classify(caught.value) == "unavailable"
    assert (await partitions(conn, "interaction_texts"))[0].detaching
    done = await maintain(engine, TERMS, CLOCK)
    assert len(done.partitions_dropped) == 7 + 3 * 4
    assert await find_orphans(conn) == dict.fromkeys(CHECKS, 0)


async def test_a_table_left_behind_is_dropped_by_the_next_run(engine: AsyncEngine, conn: Conn) -> None:
    await _ten_days(conn)
    await conn.execute(f"ALTER TABLE verdicts DETACH PARTITION verdicts_{ago(8):%Y%m%d}")
    done = await maintain(engine, TERMS, CLOCK)
    assert f"verdicts_{ago(8):%Y%m%d}" in done.partitions_dropped
    assert await conn.fetchval("SELECT to_regclass($1)", f"verdicts_{ago(8):%Y%m%d}") is None


async def test_writers_go_on_meanwhile(engine: AsyncEngine, conn: Conn, wait_until: WaitUntil) -> None:
    """A writer of today's rows is never held up for long, loses no row, and retention ends all the same."""
    await _ten_days(conn)
    stop = asyncio.Event()
    written: list[Any] = []
    longest = 0.0

    async def write() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        async with raw_connection(engine) as writer:
            while not stop.is_set():
                before = loop.time()
                async with writer.transaction():
                    for _ in range(5):
                        written.append(await add_event(writer, TODAY))
                longest = max(longest, loop.time() - before)

    task = asyncio.create_task(write())
    await wait_until(lambda: len(written) >= 10)
    before = len(written)
    done = await asyncio.wait_for(maintain(engine, TERMS, CLOCK), 60)
    during = len(written) - before
    stop.set()
    await task
    assert len(done.partitions_dropped) == 19
    assert during >= 1
    # Nothing waits for the end of the run; how long a wait is on a busy machine is not the question.
    assert longest < 20.0
    assert await conn.fetchval("SELECT count(*) FROM interactions WHERE day = $1", TODAY) == len(written) + 1
    assert await find_orphans(conn) == dict.fromkeys(CHECKS, 0)


# -- orphans

BREAK = {
    "texts_without_interaction": "DELETE FROM interactions",
    "verdicts_without_interaction": "DELETE FROM interactions",
    "screenings_without_interaction": (
        "INSERT INTO screenings SELECT day, gen_random_uuid(), 's', 'clear' FROM interactions"
    ),
    "findings_without_interaction": "DELETE FROM interactions",
    "keys_without_interaction": "DELETE FROM interactions",
    "interactions_without_key": "DELETE FROM event_keys",
    "interactions_without_texts": "DELETE FROM interaction_texts",
    "stored_without_verdict": "UPDATE verdicts SET label = 'unparseable'",
    "unsafe_without_finding": "DELETE FROM findings",
    "findings_not_unsafe": "UPDATE interactions SET unsafe = false WHERE unsafe",
}


def test_every_check_has_a_case() -> None:
    assert set(BREAK) == set(CHECKS)


@pytest.mark.parametrize("name", BREAK)
async def test_a_planted_orphan_is_counted(conn: Conn, name: str) -> None:
    await ensure_partitions(conn, TODAY, 0)
    event_id = await add_event(conn, TODAY, label="unsafe")
    await add_finding(conn, TODAY, event_id)
    await add_verdict(conn, TODAY, event_id, "safe", attempt=1)
    await add_event(conn, TODAY, label=None)
    assert await find_orphans(conn) == dict.fromkeys(CHECKS, 0)
    await conn.execute(BREAK[name])
    assert (await find_orphans(conn))[name] >= 1
    assert await find_orphans(conn, from_day=ago(-1)) == dict.fromkeys(CHECKS, 0)
    assert await find_orphans(conn, to_day=ago(1)) == dict.fromkeys(CHECKS, 0)


async def test_an_empty_store_has_no_orphans(conn: Conn) -> None:
    assert await find_orphans(conn) == dict.fromkeys(CHECKS, 0)
