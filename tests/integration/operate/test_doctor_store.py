"""The doctor's questions to a real PostgreSQL: sound, and with each fault planted."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import asyncpg
import pytest

from daemon.doctor import progress, store
from daemon.doctor.report import Finding, Level
from daemon.doctor.selection import database_questions
from sentinel.clock import ManualClock, SystemClock
from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.settings import Database, Kafka, Settings
from sentinel.store import outbox
from sentinel.store.engine import create_engine, libpq_url
from sentinel.store.migrate import migrate
from sentinel.store.partitions import ensure_partitions
from tests.integration.store.samples import add_event, add_finding
from tests.support.daemon_process import SENTINEL, environment
from tests.support.postgres import with_database

if TYPE_CHECKING:
    Conn = asyncpg.Connection[Any]

CLOCK = SystemClock()


def today() -> dt.date:
    """A run may go on over midnight."""
    return CLOCK.now().date()


class WrongClock(SystemClock):
    """Late by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._late = dt.timedelta(seconds=seconds)

    def now(self) -> dt.datetime:
        return super().now() - self._late


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Conn]:
    made = await asyncpg.connect(libpq_url(database_url), server_settings={"timezone": "UTC"})
    await ensure_partitions(made, today(), 7)
    yield made
    await made.close()


def only(found: list[Finding], level: Level) -> Finding:
    assert [finding.level for finding in found] == [level], found
    assert level is Level.OK or found[0].remedy
    return found[0]


async def examine(
    url: str, settings: Settings | None = None, *, connect_timeout_s: float = 60
) -> list[Finding]:
    engine = create_engine(Database(url=url, connect_timeout_s=connect_timeout_s))
    return await store.examine_database(engine, database_questions(settings or Settings(), CLOCK))


# -- all of it


async def test_a_sound_database_has_no_problem(conn: Conn, database_url: str) -> None:
    event = await add_event(conn, today(), label="unsafe")
    await add_finding(conn, today(), event)
    found = await examine(database_url)
    assert {f.level for f in found} <= {Level.OK, Level.WARN}, found
    # The tests' server runs without fsync, and that is named.
    assert [f.message.split(":")[0] for f in found if f.level is Level.WARN] == ["fsync is off"]
    parts = {f.part for f in found}
    assert parts == {question.part for question in database_questions(Settings(), CLOCK)}


async def test_an_empty_database_names_the_migration(empty_database_url: str) -> None:
    found = await examine(empty_database_url)
    schema = [f for f in found if f.part == "schema"]
    assert only(schema, Level.FAIL).remedy == "run `sentinel migrate`"


# -- reaching it


async def test_nothing_listens(free_port: int) -> None:
    found = only(await examine(f"postgresql://u:hidden-word@127.0.0.1:{free_port}/d"), Level.FAIL)
    assert f"127.0.0.1:{free_port}/d" in found.message
    assert "hidden-word" not in str(found)
    assert "start PostgreSQL" in found.remedy


async def test_no_such_database(database_url: str) -> None:
    found = only(await examine(with_database(database_url, "absent")), Level.FAIL)
    assert "InvalidCatalogName" in found.message
    assert "create the database" in found.remedy


async def test_a_wrong_account(conn: Conn, database_url: str) -> None:
    from sqlalchemy.engine import make_url

    url = make_url(database_url).set(username="nobody-at-all", password="hidden-word")
    found = only(await examine(url.render_as_string(hide_password=False)), Level.FAIL)
    assert "user and password" in found.remedy
    assert "hidden-word" not in str(found)


async def test_a_frozen_server_costs_only_the_time_limit(private_postgres: EmbeddedPostgres) -> None:
    private_postgres.pause()
    try:
        found = only(await examine(private_postgres.url, connect_timeout_s=3), Level.FAIL)
    finally:
        private_postgres.resume()
    assert "cannot be reached" in found.message


# -- what kind of server


async def test_an_old_server_is_named() -> None:
    async def fetch(_: str) -> list[dict[str, str]]:
        names = {"server_encoding": "UTF8", "TimeZone": "UTC", "fsync": "on", "transaction_read_only": "off"}
        return [{"name": name, "setting": setting} for name, setting in names.items()]

    old = SimpleNamespace(get_server_version=lambda: SimpleNamespace(major=13, minor=9), fetch=fetch)
    found = only(await store.check_server(cast("Conn", old)), Level.FAIL)
    assert "PostgreSQL 13" in found.message
    assert "14" in found.remedy


async def test_the_encoding_zone_and_mode_of_a_real_server(conn: Conn, database_url: str) -> None:
    name = f"ascii_{uuid4().hex[:8]}"
    await conn.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    other = await asyncpg.connect(libpq_url(with_database(database_url, name)))
    try:
        await other.execute("SET timezone = 'Europe/Berlin'; SET default_transaction_read_only = on")
        found = await store.check_server(other)
    finally:
        await other.close()
        await conn.execute(f"DROP DATABASE {name}")
    text = " ".join(f.message for f in found if f.level is Level.FAIL)
    assert "SQL_ASCII" in text
    assert "Europe/Berlin" in text
    assert "only be read" in text


@pytest.mark.parametrize(("skew_s", "level"), [(0.0, Level.OK), (5.0, Level.WARN), (-120.0, Level.FAIL)])
async def test_the_clocks_are_compared(conn: Conn, skew_s: float, level: Level) -> None:
    # What the question itself took is told apart, but for what is asymmetric in it; one of five may meet other work.
    for _ in range(5):
        found = await store.check_clock(conn, WrongClock(skew_s))
        if found[0].level is level:
            break
    told = re.search(r"[+-][\d.]+ s from", only(found, level).message)
    assert level is Level.OK or (told and float(told[0].split()[0]) == pytest.approx(skew_s, abs=2.0))


async def test_too_few_connections(conn: Conn) -> None:
    assert only(await store.check_connections(conn, 6), Level.OK)
    assert "pool_size" in only(await store.check_connections(conn, 10_000), Level.WARN).remedy


# -- schema and partitions


async def test_an_old_and_a_newer_schema(conn: Conn, database_url: str, empty_database_url: str) -> None:
    await migrate(empty_database_url, "0002")
    (old,) = [f for f in await examine(empty_database_url) if f.part == "schema"]
    assert old.level is Level.FAIL
    assert old.remedy == "run `sentinel migrate`"
    await conn.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = only(await store.check_revision(conn), Level.FAIL)
    assert "9999" in newer.message
    assert "newer release" in newer.remedy


async def test_partitions_missing_today_ahead_and_all(conn: Conn, empty_database_url: str) -> None:
    async def at(days: int) -> list[Finding]:
        return await store.check_partitions(conn, ManualClock(CLOCK.now() + dt.timedelta(days=days)), 7)

    day = today()
    assert only(await at(0), Level.OK)
    assert str(day + dt.timedelta(days=7)) in only(await at(3), Level.WARN).message
    assert "sentinel run" in only(await at(8), Level.FAIL).remedy
    await migrate(empty_database_url)
    fresh = await asyncpg.connect(libpq_url(empty_database_url))
    try:
        assert "none yet" in only(await store.check_partitions(fresh, CLOCK, 7), Level.WARN).message
    finally:
        await fresh.close()


async def test_an_account_that_may_not_make_partitions(conn: Conn) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    await conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA public TO {role}; SET ROLE {role}")
    try:
        found = only(await store.check_partitions(conn, CLOCK, 7), Level.FAIL)
    finally:
        await conn.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert "may not make day partitions" in found.message


async def test_orphans_are_counted(conn: Conn) -> None:
    event = await add_event(conn, today())
    assert only(await store.check_orphans(conn, CLOCK), Level.OK)
    await conn.execute("DELETE FROM event_keys WHERE event_id = $1", event)
    found = only(await store.check_orphans(conn, CLOCK), Level.FAIL)
    assert "1 interactions without key" in found.message


# -- the work


async def add_position(conn: Conn, topic: str = "llm.events", *, halted: str | None = None) -> None:
    await conn.execute(
        "INSERT INTO consumer_offsets (topic, partition, cluster_id, group_id, owner, first_offset, next_offset,"
        " halted, halted_detail, halted_at) VALUES ($1, 3, 'c', 'sentinel', 'o', 0, 10, $2, 'too many', now())",
        topic,
        halted,
    )


async def test_a_flood_is_resumed_by_the_command_that_is_named(conn: Conn, database_url: str) -> None:
    await add_position(conn, halted="flood")
    found = only(await progress.check_halts(conn), Level.FAIL)
    assert "llm.events 3 is halted (flood)" in found.message
    (command,) = [text for text in found.remedy.split("`") if text.startswith("sentinel dlq resume")]
    assert command == "sentinel dlq resume llm.events 3 --allow 1000"
    done = subprocess.run(
        [SENTINEL, *command.split()[1:]],
        env=environment({"database.url": database_url}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert only(await progress.check_halts(conn), Level.OK)


async def test_a_foreign_log_names_the_other_command(conn: Conn) -> None:
    await add_position(conn, halted="foreign")
    found = only(await progress.check_halts(conn), Level.FAIL)
    (command,) = [text for text in found.remedy.split("`") if text.startswith("sentinel offsets")]
    shown = subprocess.run(
        [SENTINEL, "offsets", "reset", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert command == "sentinel offsets reset llm.events 3 --to earliest --yes"
    assert all(option in shown.stdout.lower() for option in ("topic", "partition", "--to", "--yes"))


async def test_gaps_are_added_up(conn: Conn) -> None:
    assert only(await progress.check_gaps(conn), Level.OK)
    await conn.executemany(
        "INSERT INTO offset_gaps (topic, incarnation, partition, from_offset, to_offset) VALUES ('t', 0, 0, $1, $2)",
        [(0, 10), (20, 25)],
    )
    assert "15 records in 2 gap(s)" in only(await progress.check_gaps(conn), Level.WARN).message


@pytest.mark.parametrize(("minutes", "level"), [(0, Level.OK), (5, Level.WARN), (60, Level.FAIL)])
async def test_the_outbox_by_its_oldest_row(conn: Conn, minutes: int, level: Level) -> None:
    topic = Kafka().findings_topic
    await outbox.insert(conn, [outbox.OutboxRow(topic=topic, key=None, headers=(), payload=b"{}")])
    clock = ManualClock(CLOCK.now() + dt.timedelta(minutes=minutes))
    assert topic in only(await progress.check_outbox(conn, clock, Kafka()), level).message
    await conn.execute("UPDATE outbox SET sent_at = now()")
    assert only(await progress.check_outbox(conn, clock, Kafka()), Level.OK).message == "empty"


async def test_re_prompts_by_the_oldest_finding(conn: Conn) -> None:
    event = await add_event(conn, today(), label="unsafe")
    await add_finding(conn, today(), event)
    later = ManualClock(CLOCK.now() + dt.timedelta(days=3))
    assert only(await progress.check_reprompts(conn, CLOCK, enabled=True), Level.OK)
    assert "for " in only(await progress.check_reprompts(conn, later, enabled=True), Level.WARN).message
    assert "off" in only(await progress.check_reprompts(conn, later, enabled=False), Level.OK).message


async def test_dead_letters_by_reason(conn: Conn) -> None:
    assert only(await progress.check_dead_letters(conn), Level.OK)
    await conn.executemany(
        'INSERT INTO dead_letters (dead_letter_id, topic, incarnation, partition, "offset", item, reason,'
        " error_class, code_version) VALUES ($1, 't', 0, 0, $2, 0, $3, 'E', '0')",
        [(uuid4(), number, "invalid_json" if number else "unknown_schema") for number in range(3)],
    )
    found = only(await progress.check_dead_letters(conn), Level.WARN)
    assert found.message == "2 invalid_json, 1 unknown_schema"
    assert "sentinel dlq list --reason invalid_json" in found.remedy


async def test_one_response_id_under_two_tenants(conn: Conn) -> None:
    events = [await add_event(conn, today()) for _ in range(3)]
    for event, response_id, tenant in zip(events, "aab", ("one", "one", "two"), strict=True):
        await conn.execute(
            "UPDATE interactions SET response_id = $2, tenant = $3 WHERE event_id = $1",
            event,
            response_id,
            tenant,
        )
    assert only(await progress.check_tenants(conn, CLOCK), Level.OK)
    await conn.execute("UPDATE interactions SET response_id = 'a' WHERE event_id = $1", events[2])
    assert "1 response ids" in only(await progress.check_tenants(conn, CLOCK), Level.WARN).message
