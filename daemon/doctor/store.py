"""PostgreSQL: whether it can be reached, is of the right kind, and has the schema, partitions and room."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from daemon.doctor.examination import Question, ask
from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.clock import Clock
from sentinel.errors import SchemaVersionError
from sentinel.failures import describe
from sentinel.store.engine import DATABASE_ERRORS, raw_connection
from sentinel.store.migrate import check_schema
from sentinel.store.orphans import find_orphans
from sentinel.store.partitions import existing_days
from sentinel.store.tables import PARTITIONED

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine

    Connection = asyncpg.Connection[Any]

OLDEST_SERVER: Final = 14
SKEW_WARN_S: Final = 1.0
SKEW_FAIL_S: Final = 30.0
"""A lease is two minutes and a day's partitions are chosen by this host's clock."""
ORPHAN_DAYS: Final = 2

_REMEDIES: Final = {
    "28": "correct user and password in database.url (a credential file `database_url` suits it best)",
    "3D": "create the database, then run `sentinel migrate`",
    "42": "grant the account of database.url the rights on its database",
    "53": "raise max_connections, or lower database.pool_size",
    "57": "wait until the server has started, or look into its log",
}
"""By class of SQLSTATE."""


async def examine_database(engine: AsyncEngine, questions: Sequence[Question[Connection]]) -> list[Finding]:
    """Ask ``questions`` on one connection; where there is none, that is the one finding."""
    try:
        async with raw_connection(engine) as conn:
            return await ask(conn, questions)
    except DATABASE_ERRORS as error:
        return [_unreachable(engine, error)]
    finally:
        await engine.dispose()


async def check_server(conn: Connection) -> list[Finding]:
    """Version, encoding, zone, durability, and whether it can be written at all."""
    version = conn.get_server_version()
    rows = await conn.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN"
        " ('server_encoding', 'TimeZone', 'fsync', 'transaction_read_only')"
    )
    has = {row["name"]: row["setting"] for row in rows}
    found: list[Finding] = []
    if version.major < OLDEST_SERVER:
        found.append(
            fail(
                "database",
                f"PostgreSQL {version.major} is too old",
                f"use PostgreSQL {OLDEST_SERVER} or later",
            )
        )
    if has["server_encoding"] != "UTF8":
        found.append(
            fail(
                "database",
                f"its encoding is {has['server_encoding']}, which cannot hold every text",
                "make the database anew: createdb --encoding=UTF8 --template=template0 NAME",
            )
        )
    if has["TimeZone"] not in {"UTC", "Etc/UTC", "GMT"}:
        found.append(
            fail(
                "database",
                f"sessions run in the zone {has['TimeZone']} although UTC was asked for",
                "let the pooler pass the start-up parameter TimeZone, or ALTER DATABASE ... SET timezone = 'UTC'",
            )
        )
    if has["fsync"] != "on":
        found.append(
            warn(
                "database",
                "fsync is off: a crash of its host can destroy every row",
                "set fsync = on in postgresql.conf",
            )
        )
    if has["transaction_read_only"] == "on":
        found.append(
            fail(
                "database",
                "it can only be read",
                "name the primary in database.url (target_session_attrs=read-write)",
            )
        )
    return found or [ok("database", f"PostgreSQL {version.major}.{version.minor}, UTF8, UTC")]


async def check_clock(conn: Connection, clock: Clock) -> list[Finding]:
    """How far the server's clock is from ours, within half of the round trip."""
    before = clock.monotonic()
    theirs: dt.datetime = await conn.fetchval("SELECT clock_timestamp()")
    travel = clock.monotonic() - before
    skew = (theirs - clock.now()).total_seconds() + travel / 2
    remedy = "run a time service (chrony, systemd-timesyncd) on both hosts"
    if abs(skew) > SKEW_FAIL_S:
        return [fail("clock", f"the database's clock is {skew:+.1f} s from this host's", remedy)]
    if abs(skew) > SKEW_WARN_S:
        return [warn("clock", f"the database's clock is {skew:+.1f} s from this host's", remedy)]
    return [ok("clock", f"the database's clock is within {SKEW_WARN_S:g} s of this host's")]


async def check_revision(conn: Connection) -> list[Finding]:
    """The schema against this release."""
    try:
        status = await check_schema(conn)
    except SchemaVersionError as error:
        newer = "newer release" in str(error)
        return [
            fail("schema", str(error), "install the newer release" if newer else "run `sentinel migrate`")
        ]
    if status.pending:
        names = ", ".join(step.revision for step in status.pending)
        return [
            warn("schema", f"steps for after the roll-out are pending: {names}", "run `sentinel migrate` when every "
                 "process has this release")
        ]  # fmt: skip
    return [ok("schema", f"revision {status.current}")]


async def check_partitions(conn: Connection, clock: Clock, ahead_days: int) -> list[Finding]:
    """Day partitions of today and the days ahead, and the right to make more."""
    today = clock.now().date()
    wanted = [today + dt.timedelta(days=ahead) for ahead in range(ahead_days + 1)]
    missing: set[dt.date] = set()
    any_day = False
    for table in PARTITIONED:
        days = set(await existing_days(conn, table))
        any_day = any_day or bool(days)
        missing |= set(wanted) - days
    found: list[Finding] = []
    owned = await conn.fetchval(
        "SELECT bool_and(pg_has_role(current_user, relowner, 'USAGE'))"
        " AND has_schema_privilege(current_user, current_schema(), 'CREATE')"
        " FROM pg_class WHERE oid = ANY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name)",
        list(PARTITIONED),
    )
    if owned is False:
        found.append(
            fail(
                "partitions",
                "this account may not make day partitions",
                "let the account of database.url own the tables, or make it a member of their owner's role",
            )
        )
    if not any_day:
        found.append(warn("partitions", "there are none yet", "start `sentinel run`, which makes them"))
    elif today in missing:
        found.append(
            fail("partitions", f"today's partition ({today}) is missing", "start `sentinel run`, which makes it; "
                 "where it runs, look into its log for action=maintain")
        )  # fmt: skip
    elif missing:
        found.append(
            warn(
                "partitions",
                f"made ahead only until {min(missing) - dt.timedelta(days=1)}",
                "look into the log of `sentinel run` for action=maintain",
            )
        )
    return found or [ok("partitions", f"made until {wanted[-1]}")]


async def check_connections(conn: Connection, pool_size: int) -> list[Finding]:
    """Whether the server has room for the pool of one more process."""
    row = await conn.fetchrow(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " AS allowed, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used"
    )
    if row is None:
        return []
    free = row["allowed"] - row["used"] + 1  # this connection ends with the command
    text = f"{row['used']} of {row['allowed']} connections are in use, one process takes up to {pool_size}"
    if free < pool_size:
        return [warn("connections", text, "raise max_connections, or lower database.pool_size")]
    return [ok("connections", text)]


async def check_orphans(conn: Connection, clock: Clock) -> list[Finding]:
    """Rows of the last days without the row that they belong to."""
    since = clock.now().date() - dt.timedelta(days=ORPHAN_DAYS)
    found = {name: number for name, number in (await find_orphans(conn, from_day=since)).items() if number}
    if found:
        text = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.items())
        return [
            fail(
                "orphans",
                text,
                "rows were changed by hand or by a fault: keep the database as it is and report it",
            )
        ]
    return [ok("orphans", f"none in the last {ORPHAN_DAYS} days")]


def _unreachable(engine: AsyncEngine, error: BaseException) -> Finding:
    place = f"{engine.url.host or 'its socket'}:{engine.url.port or 5432}/{engine.url.database or ''}"
    inner: BaseException | None = error
    while inner is not None and not isinstance(getattr(inner, "sqlstate", None), str):
        inner = getattr(inner, "orig", None) or inner.__cause__
    state = getattr(inner, "sqlstate", "") if inner is not None else ""
    remedy = _REMEDIES.get(str(state)[:2], "start PostgreSQL, or correct host and port in database.url")
    reason = type(inner).__name__ if inner is not None else describe(error)
    return fail("database", f"cannot be reached at {place}: {reason}", remedy)
