from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pgqueuer.adapters.persistence import schema_inspect, schema_plan
from pgqueuer.adapters.persistence.qb import (
    DBSettings,
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.db import AsyncpgDriver
from pgqueuer.domain.schema.declaration import target
from pgqueuer.queries import Queries
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

import migrations
from sentinel.errors import CommandError, ConfigurationError, SchemaVersionError
from sentinel.states import ADAPTER_MOVES, RUN_MOVES, AdapterState, RunState
from sentinel.store import migrate as module
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import (
    LOCK_ID,
    check_schema,
    head,
    migrate,
    offline_sql,
    schema_status,
    schema_version,
    scripts,
    steps,
)
from sentinel.store.partitions import ensure_partitions
from sentinel.store.tables import PARTITIONED, metadata
from tests.integration.store.catalogue import catalogue, objects
from tests.integration.store.samples import DAY, add_event

pytestmark = pytest.mark.postgres14

Conn: TypeAlias = "asyncpg.Connection[Any]"


# -- the files


def test_there_is_one_head_and_one_base() -> None:
    directory = scripts()
    assert len(directory.get_heads()) == 1
    assert len(directory.get_bases()) == 1


def test_every_step_is_named_by_its_number_and_says_when_it_runs() -> None:
    files = sorted(path.name for path in Path(migrations.__path__[0]).glob("[0-9]*.py"))
    known = steps()
    assert [name[:4] for name in files] == [step.revision for step in known]
    assert all(name[4] == "_" and name.removesuffix(".py").count("_") >= 2 for name in files)
    for step in known:
        assert step.deploy in ("pre", "post"), step
        assert module.release_key(step.oldest_release) <= module.release_key(module.release()), step
        assert step.title.endswith("."), step


# -- models and migrations


def _drift(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _parents: kind != "table" or name != "schema_revisions",
        },
    )
    return list(compare_metadata(context, metadata))


async def _drift_of(url: str, plant: str = "") -> list[Any]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            if plant:
                await connection.execute(text(plant))
            return await connection.run_sync(_drift)
    finally:
        await engine.dispose()


async def test_models_equal_migrations_for_alembic(database_url: str) -> None:
    assert await _drift_of(database_url) == []


@pytest.mark.parametrize(
    "plant",
    [
        "ALTER TABLE findings ADD COLUMN extra text",
        "ALTER TABLE findings ALTER COLUMN score TYPE double precision",
        "ALTER TABLE interactions ALTER COLUMN reason DROP NOT NULL",
        "DROP INDEX ix_outbox_unsent",
        "ALTER TABLE outbox ALTER COLUMN headers SET DEFAULT '{}'::jsonb",
    ],
)
async def test_a_planted_difference_is_found_by_alembic(database_url: str, plant: str) -> None:
    assert len(await _drift_of(database_url, plant)) == 1


async def _created_from_models(url: str) -> set[tuple[object, ...]]:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    conn = await asyncpg.connect(libpq_url(url))
    found = await catalogue(conn)
    await conn.close()
    return found


async def test_models_equal_migrations_for_postgres(conn: Conn, empty_database_url: str) -> None:
    """Alembic compares no CHECK, no partition key, no name of a primary key; the catalogue has them all."""
    wanted = await _created_from_models(empty_database_url)
    got = await catalogue(conn)
    assert got - wanted == set()
    assert wanted - got == set()
    assert {row[1] for row in got if row[0] == "table"} == set(metadata.tables)


@pytest.mark.parametrize(
    "plant",
    [
        "ALTER TABLE verdicts DROP CONSTRAINT ck_verdicts_label",
        "ALTER TABLE reprompts RENAME CONSTRAINT pk_reprompts TO other",
        "DROP INDEX ix_interactions_unsafe; CREATE INDEX ix_interactions_unsafe ON interactions (recorded_at)",
    ],
)
async def test_a_planted_difference_is_found_by_the_catalogue(conn: Conn, plant: str) -> None:
    before = await catalogue(conn)
    await conn.execute(plant)
    assert await catalogue(conn) != before


async def test_every_time_has_a_zone(conn: Conn) -> None:
    rows = await conn.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema IN ('public', 'pgqueuer') AND data_type LIKE 'time%'"
    )
    assert len(rows) > 20
    assert {row["data_type"] for row in rows} == {"timestamp with time zone"}


async def test_no_default_partition_and_no_key_into_a_partitioned_table(conn: Conn) -> None:
    parents = await conn.fetch("SELECT relname FROM pg_class WHERE relkind = 'p' ORDER BY 1")
    assert [row["relname"] for row in parents] == sorted(PARTITIONED)
    assert await conn.fetchval("SELECT count(*) FROM pg_partitioned_table WHERE partdefid <> 0") == 0
    into = await conn.fetch(
        "SELECT conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid"
        " WHERE k.contype = 'f' AND c.relkind = 'p'"
    )
    assert into == []
    among_others = await conn.fetchval("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    assert among_others >= 7


# -- up and down


async def test_up_down_up_gives_the_same_schema(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    names = [step.revision for step in steps()]
    bare = await objects(conn)
    assert await migrate(empty_database_url) == names
    first = (await objects(conn), await catalogue(conn))
    assert await migrate(empty_database_url, "base") == names[::-1]
    books = {"public.alembic_version r", "public.schema_revisions r"}
    left = {name for name in await objects(conn) if name not in bare}
    assert {name for name in left if not name.endswith(" i")} == books
    assert await conn.fetchval("SELECT count(*) FROM schema_revisions") == 0
    assert await migrate(empty_database_url) == names
    assert (await objects(conn), await catalogue(conn)) == first
    assert await migrate(empty_database_url) == []
    await conn.close()


async def test_each_step_can_be_undone_and_redone(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    before = "base"
    for step in steps():
        below = await objects(conn) if before != "base" else None
        assert await migrate(empty_database_url, step.revision) == [step.revision]
        above = await objects(conn)
        assert await migrate(empty_database_url, before) == [step.revision]
        assert below is None or await objects(conn) == below
        assert await migrate(empty_database_url, step.revision) == [step.revision]
        assert await objects(conn) == above
        assert await schema_version(conn) == step.revision
        before = step.revision
    assert before == head()
    await conn.close()


async def test_partitions_do_not_hold_up_the_way_down(database_url: str, conn: Conn) -> None:
    await ensure_partitions(conn, DAY, 1)
    await add_event(conn)
    await migrate(database_url, "base")
    assert await schema_version(conn) is None


async def test_the_printed_sql_makes_the_same_schema(conn: Conn, empty_database_url: str) -> None:
    by_hand = await asyncpg.connect(libpq_url(empty_database_url))
    await by_hand.execute(offline_sql())
    assert await objects(by_hand) == await objects(conn)
    assert await catalogue(by_hand) == await catalogue(conn)
    await check_schema(by_hand)
    await by_hand.close()


async def test_a_failing_step_leaves_the_step_before(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    # The third step finds its first table there already and fails; the second stays.
    await conn.execute("CREATE TABLE preference_pairs (x int)")
    with pytest.raises(Exception, match='relation "preference_pairs" already exists'):
        await migrate(empty_database_url)
    assert await schema_version(conn) == "0002"
    assert await conn.fetchval("SELECT to_regclass('findings')") is None
    await conn.execute("DROP TABLE preference_pairs")
    assert await migrate(empty_database_url) == [step.revision for step in steps()[2:]]
    await conn.close()


async def test_an_unknown_revision_is_refused(empty_database_url: str) -> None:
    with pytest.raises(CommandError, match="unknown revision '0999'"):
        await migrate(empty_database_url, "0999")


# -- several at once


async def test_two_at_once_run_each_step_once(empty_database_url: str) -> None:
    lines: list[str] = []
    ran = await asyncio.gather(*(migrate(empty_database_url, progress=lines.append) for _ in range(3)))
    assert sorted(map(len, ran)) == [0, 0, len(steps())]
    assert sum(line.startswith("applied") for line in lines) == len(steps())


async def test_a_migrator_waits_for_the_lock(empty_database_url: str) -> None:
    holder = await asyncpg.connect(libpq_url(empty_database_url))
    await holder.execute("SELECT pg_advisory_lock($1)", LOCK_ID)
    waiting = asyncio.Event()
    task = asyncio.create_task(migrate(empty_database_url, progress=lambda _: waiting.set()))
    await asyncio.wait_for(waiting.wait(), 10)
    assert await schema_version(holder) is None
    await holder.execute("SELECT pg_advisory_unlock($1)", LOCK_ID)
    assert len(await asyncio.wait_for(task, 30)) == len(steps())
    await holder.close()


# -- which releases fit


async def test_a_current_schema_fits(conn: Conn) -> None:
    status = await check_schema(conn)
    assert (status.current, status.pending, status.unknown) == (head(), (), ())


async def test_an_empty_database_is_refused(empty_database_url: str) -> None:
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    with pytest.raises(SchemaVersionError, match="sentinel migrate"):
        await check_schema(conn)
    assert len((await schema_status(conn)).pending) == len(steps())
    await conn.close()


async def test_an_older_schema_is_refused(database_url: str, conn: Conn) -> None:
    await migrate(database_url, steps()[-2].revision)
    with pytest.raises(SchemaVersionError, match=f"needs {head()}"):
        await check_schema(conn)


async def _as_if_newer(conn: Conn, *oldest: str) -> None:
    for number, release in enumerate(oldest):
        await conn.execute(
            "INSERT INTO schema_revisions VALUES ($1, 'pre', $2, '9.9', now() + $3 * interval '1 s')",
            f"900{number}",
            release,
            number,
        )
    await conn.execute("UPDATE alembic_version SET version_num = $1", f"900{len(oldest) - 1}")


async def test_a_newer_schema_that_carries_this_release_fits(conn: Conn) -> None:
    await _as_if_newer(conn, "0.1", "0.1")
    assert (await check_schema(conn)).unknown == ("9000", "9001")


@pytest.mark.parametrize("oldest", [("0.2",), ("0.2", "0.1"), ("0.1", "1.0")])
async def test_a_schema_more_than_a_release_newer_is_refused(conn: Conn, oldest: tuple[str, ...]) -> None:
    await _as_if_newer(conn, *oldest)
    with pytest.raises(SchemaVersionError, match="install the newer release"):
        await check_schema(conn)


async def test_a_revision_that_nobody_recorded_is_refused(conn: Conn) -> None:
    await conn.execute("UPDATE alembic_version SET version_num = 'abcd'")
    with pytest.raises(SchemaVersionError, match="abcd"):
        await check_schema(conn)


async def test_an_older_release_does_not_migrate_a_newer_schema(database_url: str, conn: Conn) -> None:
    await _as_if_newer(conn, "0.1")
    with pytest.raises(SchemaVersionError, match="9000"):
        await migrate(database_url)


# -- states


async def _refused(conn: Conn, statement: str, *args: object) -> bool:
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute(statement, *args)
    except asyncpg.CheckViolationError as error:
        return str(error.constraint_name).endswith("_legal_move")
    finally:
        await transaction.rollback()
    return False


async def test_the_database_allows_the_same_moves_of_runs(conn: Conn) -> None:
    for before, after in itertools.product(RunState, RunState):
        await conn.execute("DELETE FROM training_runs")
        await conn.execute(
            "INSERT INTO training_runs (run_id, served_model, kind, state)"
            " VALUES (gen_random_uuid(), 'main', 'train', $1)",
            before.value,
        )
        legal = after in RUN_MOVES[before] or before is after
        refused = await _refused(conn, "UPDATE training_runs SET state = $1", after.value)
        assert refused is not legal, (before, after)


async def test_the_database_allows_the_same_moves_of_adapters(conn: Conn) -> None:
    for before, after in itertools.product(AdapterState, AdapterState):
        await conn.execute("DELETE FROM adapters")
        await conn.execute(
            "INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest)"
            " VALUES ('a', 'main', $1, '/a', 'f', '{}')",
            before.value,
        )
        legal = after in ADAPTER_MOVES[before] or before is after
        refused = await _refused(conn, "UPDATE adapters SET state = $1", after.value)
        assert refused is not legal, (before, after)


# -- PgQueuer


async def test_pgqueuer_itself_would_change_nothing(conn: Conn) -> None:
    settings = DBSettings(db_schema="pgqueuer")
    driver = AsyncpgDriver(conn)
    plan = schema_plan.plan(await schema_inspect.inspect(driver, settings), target(settings), settings)
    assert list(plan.statements) == []
    await conn.execute("ALTER TABLE pgqueuer.pgqueuer DROP COLUMN slot")
    plan = schema_plan.plan(await schema_inspect.inspect(driver, settings), target(settings), settings)
    assert list(plan.statements) != []


async def test_pgqueuer_takes_a_job_in_our_transaction(conn: Conn) -> None:
    settings = DBSettings(db_schema="pgqueuer")
    queries = Queries(
        AsyncpgDriver(conn),
        qbe=QueryBuilderEnvironment(settings),
        qbq=QueryQueueBuilder(settings),
        qbs=QuerySchedulerBuilder(settings),
    )
    transaction = conn.transaction()
    await transaction.start()
    (job,) = await queries.enqueue("train", b"{}", dedupe_key="train:main")
    assert await conn.fetchval("SELECT entrypoint FROM pgqueuer.pgqueuer WHERE id = $1", job) == "train"
    await transaction.rollback()
    assert await conn.fetchval("SELECT count(*) FROM pgqueuer.pgqueuer") == 0


async def test_another_pgqueuer_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build = QueryBuilderEnvironment.build_install_query

    def other(self: QueryBuilderEnvironment, create_schema: bool = True) -> str:
        return build(self, create_schema).replace("priority integer", "priority bigint")

    monkeypatch.setattr(QueryBuilderEnvironment, "build_install_query", other)
    with pytest.raises(ConfigurationError, match=r"install pgqueuer 1\.6"):
        await migrate(empty_database_url)
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    assert await schema_version(conn) == "0005"
    await conn.close()


async def test_pgqueuer_variables_do_not_move_it(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUER_PREFIX", "other_")
    await migrate(empty_database_url)
    conn = await asyncpg.connect(libpq_url(empty_database_url))
    assert await conn.fetchval("SELECT to_regclass('pgqueuer.pgqueuer')") is not None
    await conn.close()
