from __future__ import annotations

import asyncio
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.settings import Database
from sentinel.store.engine import classify, create_engine, raw_connection
from sentinel.store.partitions import create_missing
from tests.integration.store.samples import DAY, add_event, add_verdict
from tests.support.waiting import wait_until

Conn: TypeAlias = "asyncpg.Connection[Any]"

_REPROMPT = (
    "INSERT INTO reprompts (finding_id, attempt, generator, instruction_version, response)"
    " VALUES ($1, 1, 'g', 'v', 'r')"
)


async def _error(conn: Conn, statement: str, *args: object) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
        await conn.execute(statement, *args)
    return caught.value


async def test_a_connection_is_asyncpgs_in_utc_under_our_name(engine: AsyncEngine) -> None:
    async with raw_connection(engine) as conn:
        assert isinstance(conn, asyncpg.Connection)
        assert await conn.fetchval("SHOW timezone") == "UTC"
        assert await conn.fetchval("SHOW application_name") == "sentinel"
        assert not conn.is_in_transaction()


async def test_it_works_without_prepared_statements(database_url: str) -> None:
    """As behind a pooler that hands each transaction to another session."""
    engine = create_engine(Database(url=SecretStr(database_url), statement_cache_size=0))
    async with raw_connection(engine) as conn:
        for number in range(3):
            assert await conn.fetchval("SELECT $1::int + 1", number) == number + 1
        assert await conn.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql") <= 1
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()


async def test_a_connection_returns_to_the_pool(engine: AsyncEngine) -> None:
    async with raw_connection(engine) as conn:
        first = await conn.fetchval("SELECT pg_backend_pid()")
    async with raw_connection(engine) as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") == first


async def test_an_open_transaction_does_not_return_to_the_pool(engine: AsyncEngine) -> None:
    async with raw_connection(engine) as conn:
        first = await conn.fetchval("SELECT pg_backend_pid()")
        await conn.execute("BEGIN")
        await conn.execute("CREATE TABLE left_over (x int)")
    async with raw_connection(engine) as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") != first
        assert await conn.fetchval("SELECT to_regclass('left_over')") is None


async def test_a_closed_pooled_connection_is_not_handed_out(engine: AsyncEngine, conn: Conn) -> None:
    async with raw_connection(engine) as one, raw_connection(engine) as two:
        pids = [await one.fetchval("SELECT pg_backend_pid()"), await two.fetchval("SELECT pg_backend_pid()")]
    await conn.execute("SELECT pg_terminate_backend(p) FROM unnest($1::int[]) p", pids)
    await wait_until(lambda: one.is_closed() and two.is_closed())
    for _ in range(3):
        async with raw_connection(engine) as fresh:
            assert await fresh.fetchval("SELECT pg_backend_pid()") not in pids


async def test_a_full_pool_is_unavailable(database_url: str) -> None:
    engine = create_engine(Database(url=SecretStr(database_url), pool_size=2, connect_timeout_s=2.0))
    async with raw_connection(engine), raw_connection(engine):
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
            async with raw_connection(engine):
                pass
    assert classify(caught.value) == "unavailable"
    await engine.dispose()


async def test_poison(conn: Conn) -> None:
    await create_missing(conn, DAY)
    event_id = await add_event(conn)
    for statement, *args in (
        ("UPDATE interaction_texts SET response = $1", "nul \x00 character"),
        ("UPDATE interaction_texts SET response = $1", "lone surrogate \ud800"),
        ("UPDATE interaction_texts SET messages = $1", '["\\u0000"]'),
        ("UPDATE interactions SET input_tokens = $1", 2**40),
        ("UPDATE interactions SET input_tokens = $1::bigint", 2**40),
        ("UPDATE interactions SET outcome = 'lost'",),
        ("UPDATE interactions SET format = NULL",),
        ("UPDATE verdicts SET label = 'fine'",),
        (_REPROMPT, uuid4()),
    ):
        error = await _error(conn, statement, *args)
        assert classify(error) == "poison", (statement, error)
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await add_verdict(conn, DAY, event_id, "safe")
    assert classify(caught.value) == "poison"


async def test_a_missing_day_through_either_way(conn: Conn, engine: AsyncEngine) -> None:
    statement = "INSERT INTO screenings VALUES ('2026-03-01', gen_random_uuid(), 's', 'clear', NULL, now())"
    assert classify(await _error(conn, statement)) == "missing_partition"
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(statement))
    assert classify(caught.value) == "missing_partition"


async def test_a_mistake_is_fatal(conn: Conn) -> None:
    assert classify(await _error(conn, "SELECT * FROM nowhere")) == "fatal"
    assert classify(await _error(conn, "SELEC 1")) == "fatal"


async def test_a_busy_connection_is_a_mistake(conn: Conn) -> None:
    task = asyncio.create_task(conn.execute("SELECT pg_sleep(2)"))
    await asyncio.sleep(0.1)
    assert classify(await _error(conn, "SELECT 1")) == "fatal"
    await task


async def test_a_deadlock_is_repeated(conn: Conn, other: Conn) -> None:
    await conn.execute("CREATE TABLE d (x int PRIMARY KEY, y int); INSERT INTO d VALUES (1, 0), (2, 0)")

    both = asyncio.Barrier(2)

    async def cross(connection: Conn, first: int, second: int) -> BaseException | None:
        try:
            async with connection.transaction():
                await connection.execute("UPDATE d SET y = 1 WHERE x = $1", first)
                await both.wait()
                await connection.execute("UPDATE d SET y = 1 WHERE x = $1", second)
        except asyncpg.PostgresError as error:
            return error
        return None

    found = await asyncio.gather(cross(conn, 1, 2), cross(other, 2, 1))
    errors = [error for error in found if error is not None]
    assert [classify(error) for error in errors] == ["retry"]


async def test_a_serialisation_failure_is_repeated(conn: Conn, other: Conn) -> None:
    await conn.execute("CREATE TABLE s (x int); INSERT INTO s VALUES (0)")
    async with conn.transaction(isolation="repeatable_read"):
        await conn.fetchval("SELECT x FROM s")
        await other.execute("UPDATE s SET x = 1")
        with pytest.raises(asyncpg.SerializationError) as caught:
            await conn.execute("UPDATE s SET x = 2")
    assert classify(caught.value) == "retry"


async def test_a_read_only_server_is_unavailable(conn: Conn) -> None:
    await conn.execute("SET default_transaction_read_only = on")
    assert classify(await _error(conn, "CREATE TABLE x (y int)")) == "unavailable"


async def test_a_statement_that_takes_too_long_is_unavailable(conn: Conn, database_url: str) -> None:
    await conn.execute("SET statement_timeout = '50ms'")
    assert classify(await _error(conn, "SELECT pg_sleep(5)")) == "unavailable"
    engine = create_engine(Database(url=SecretStr(database_url), command_timeout_s=1.0))
    async with raw_connection(engine) as slow:
        assert classify(await _error(slow, "SELECT pg_sleep(5)")) == "unavailable"
    await engine.dispose()


async def test_a_terminated_session_is_unavailable(conn: Conn, other: Conn) -> None:
    task = asyncio.create_task(_error(other, "SELECT pg_sleep(20)"))
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(20)'"
    await wait_until(lambda: conn.fetchval(busy))
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert classify(await task) == "unavailable"
    assert classify(await _error(other, "SELECT 1")) == "unavailable"


async def test_a_killed_server_is_unavailable_and_comes_back(private_postgres: EmbeddedPostgres) -> None:
    engine = create_engine(Database(url=SecretStr(private_postgres.url)))
    async with raw_connection(engine) as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("CREATE TABLE t (x int)")
        await asyncio.to_thread(private_postgres.kill)
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
            await transaction.commit()
        assert classify(caught.value) == "unavailable"
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the question
        async with raw_connection(engine):
            pass
    assert classify(caught.value) == "unavailable"
    await asyncio.to_thread(private_postgres.restart)
    async with raw_connection(engine) as conn:
        assert await conn.fetchval("SELECT to_regclass('t')") is None
    await engine.dispose()
