"""What was decided cannot be rewritten: the database itself refuses it."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from sentinel.errors import CommandError
from sentinel.store.admission import decide
from sentinel.store.engine import classify
from sentinel.store.migrate import migrate
from sentinel.store.tables import APPEND_ONLY, metadata
from tests.support.waiting import WaitUntil

pytestmark = pytest.mark.postgres14

Conn: TypeAlias = "asyncpg.Connection[Any]"
Refused = asyncpg.ObjectNotInPrerequisiteStateError

ROWS = {
    "audit_log": "INSERT INTO audit_log (actor, action) VALUES ('anna', 'promote')",
    "promotions": (
        "INSERT INTO promotions (promotion_id, served_model, generation, adapter, action, actor)"
        f" VALUES ('{uuid4()}', 'main', 1, 'a', 'promote', 'anna')"
    ),
    "evaluation_tries": (
        "INSERT INTO evaluation_tries (served_model, version, candidate_sha256, k) VALUES ('main', '1', 'f', 1)"
    ),
    # Written by a trigger of its own when the adapter of `stored` appears.
    "adapter_moves": "",
    "approvals": "INSERT INTO approvals (adapter, actor, decision) VALUES ('a', 'anna', 'approve')",
}


@pytest.fixture
async def stored(conn: Conn) -> Conn:
    """A connection to a database with an adapter and one row in each append-only table."""
    await conn.execute(
        "INSERT INTO adapters (adapter, served_model, path, weights_sha256, manifest)"
        " VALUES ('a', 'main', '/a', 'f', '{}')"
    )
    for statement in filter(None, ROWS.values()):
        await conn.execute(statement)
    return conn


async def rows_of(conn: Conn, table: str) -> list[dict[str, object]]:
    return [dict(row) for row in await conn.fetch(f"SELECT * FROM {table}")]


def test_every_append_only_table_is_tried() -> None:
    assert set(ROWS) == set(APPEND_ONLY)


async def test_the_models_say_which_tables_are_append_only(conn: Conn) -> None:
    found = await conn.fetch(
        "SELECT tgrelid::regclass::text AS name FROM pg_trigger WHERE tgfoid = 'append_only'::regproc"
    )
    assert sorted(row["name"] for row in found) == sorted(APPEND_ONLY)


@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0} CASCADE"])
async def test_what_was_written_stays(stored: Conn, statement: str) -> None:
    for table in APPEND_ONLY:
        before = await rows_of(stored, table)
        assert len(before) == 1
        with pytest.raises(Refused, match=f"on {table} refused: the table is append-only") as refused:
            await stored.execute(statement.format(table, metadata.tables[table].columns[0].name))
        assert classify(refused.value) == "fatal"
        assert await rows_of(stored, table) == before


async def test_a_statement_that_finds_no_row_is_refused_too(conn: Conn) -> None:
    with pytest.raises(Refused):
        await conn.execute("DELETE FROM promotions WHERE generation = 7")


async def test_an_insert_that_would_overwrite_is_refused(stored: Conn) -> None:
    before = await rows_of(stored, "approvals")
    with pytest.raises(Refused):
        await stored.execute(
            "INSERT INTO approvals (adapter, actor, decision) VALUES ('a', 'anna', 'reject')"
            " ON CONFLICT (adapter, actor) DO UPDATE SET decision = excluded.decision"
        )
    assert await rows_of(stored, "approvals") == before


async def test_an_adapter_with_a_history_stays(stored: Conn) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await stored.execute("DELETE FROM adapters")
    with pytest.raises(Refused):
        await stored.execute("TRUNCATE adapters CASCADE")


async def test_the_refusal_goes_with_its_migration(database_url: str, stored: Conn) -> None:
    await migrate(database_url, "0008")
    await stored.execute("DELETE FROM promotions")
    await migrate(database_url)
    with pytest.raises(Refused):
        await stored.execute("DELETE FROM audit_log")


async def test_a_decision_that_is_being_written_is_not_overwritten(
    stored: Conn, other: Conn, wait_until: WaitUntil
) -> None:
    first = stored.transaction()
    await first.start()
    await stored.execute("INSERT INTO approvals (adapter, actor, decision) VALUES ('a', 'bob', 'approve')")
    second = asyncio.create_task(decide(other, "a", actor="bob", decision="reject"))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
    await wait_until(lambda: stored.fetchval(waiting, other.get_server_pid()))
    await first.commit()
    with pytest.raises(CommandError, match="bob has said 'approve' about a before"):
        await second
    assert await stored.fetchval("SELECT state FROM adapters") == "candidate"
