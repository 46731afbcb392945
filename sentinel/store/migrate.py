"""Bring the database to a revision, and tell whether this release can work on the revision it has.

Alembic's machinery is driven from here without an ``env.py``: one connection, one transaction a step, under
an advisory lock, so that two migrators wait for each other instead of running the same step twice. Each step
that ran is also a row of ``schema_revisions``, with the oldest release that works on the schema it left: that
is how an older release judges steps which it has never heard of.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from typing import Any

import asyncpg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from msgspec import Struct
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Delete,
    Insert,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    pool,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateTable

from sentinel.errors import CommandError, SchemaVersionError
from sentinel.store.engine import driver_connection, driver_url

LOCK_ID = 0x73656E74_6D696772
"""Advisory lock of the migrator: "sentmigr"."""

LOCK_TIMEOUT = "30s"
"""How long a step may queue for a table lock; behind a waiting ALTER TABLE every writer waits as well."""

Progress = Callable[[str], None]

_LOG = Table(
    "schema_revisions",
    MetaData(),
    Column("revision", Text, primary_key=True),
    Column("deploy", Text, nullable=False),
    Column("oldest_release", Text, nullable=False),
    Column("applied_by", Text, nullable=False),
    Column("applied_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""The migrator's own book, like Alembic's ``alembic_version``; no step creates or drops it."""

_CREATE_LOG = str(
    CreateTable(_LOG, if_not_exists=True).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
).strip()


class Step(Struct, frozen=True):
    """One file of ``migrations/``."""

    revision: str
    title: str
    deploy: str
    """``pre`` or ``post``: before or after the new release is rolled out."""
    oldest_release: str
    """The oldest release that works on the schema which this step leaves."""


class SchemaStatus(Struct, frozen=True):
    """Where a database stands against this release; ``known`` are all of this release's revisions."""

    known: tuple[str, ...]
    """First to last."""

    current: str | None
    """The database's revision; None where no step has run."""
    head: str
    pending: tuple[Step, ...]
    """Known steps that have not run, in order; empty where the database is at or beyond the head."""
    unknown: tuple[str, ...]
    """Revisions of a newer release, oldest first."""

    def would_undo(self, revision: str) -> tuple[str, ...]:
        """Revisions that going to ``revision`` ("head", "base" or an id) takes back, with their rows."""
        if self.current not in self.known or revision == "head":
            return ()
        ran = self.known[: self.known.index(self.current) + 1]
        kept = () if revision == "base" else self.known[: self.known.index(revision) + 1]
        return ran[len(kept) :][::-1]


def release() -> str:
    """This installation's version."""
    return metadata.version("sentinel-loop")


def scripts() -> ScriptDirectory:
    """The steps that ship with this release."""
    folder = str(resources.files("migrations"))
    return ScriptDirectory(folder, version_locations=[folder])


def steps(directory: ScriptDirectory | None = None) -> list[Step]:
    """All known steps, first to last."""
    found = [_step(script) for script in (directory or scripts()).walk_revisions()]
    return found[::-1]


def head() -> str:
    """The newest revision that this release knows."""
    return steps()[-1].revision


async def migrate(url: str, revision: str = "head", *, progress: Progress = lambda line: None) -> list[str]:
    """Upgrade or downgrade the database at ``url`` to ``revision`` ("head", "base" or a revision's id).

    Returns the revisions that ran (or were undone), in order; an empty list where there was nothing to do.
    Waits while another migrator works. ``progress`` gets one sentence a step. Raises CommandError for an
    unknown revision, SchemaVersionError where the database has revisions that this release does not know, and
    what asyncpg and SQLAlchemy raise.
    """
    directory = scripts()
    _known(directory, revision)
    engine = create_async_engine(
        driver_url(url),
        poolclass=pool.NullPool,
        connect_args={"server_settings": {"application_name": "sentinel-migrate", "timezone": "UTC"}},
    )
    try:
        async with engine.connect() as connection:
            driver = await driver_connection(connection)
            await _lock(driver, progress)
            try:
                await driver.execute(_CREATE_LOG)
                status = await schema_status(driver)
                if status.unknown:
                    raise SchemaVersionError(
                        f"the database has revisions that release {release()} does not know "
                        f"({', '.join(status.unknown)}); use the release that made them"
                    )
                await driver.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
                done: list[str] = []
                await connection.run_sync(_run, directory, status, revision, done, progress)
                return done
            finally:
                await _unlock(driver)
    finally:
        await engine.dispose()


def offline_sql(revision: str = "head", *, start: str | None = None) -> str:
    """The SQL that ``migrate`` would send from revision ``start`` (None: an empty database), for review."""
    directory = scripts()
    _known(directory, revision)
    out = io.StringIO()
    config = Config(output_buffer=out)
    context = EnvironmentContext(
        config,
        directory,
        fn=lambda at, _context: directory._upgrade_revs(revision, at),
        as_sql=True,
        starting_rev=start,
        destination_rev=revision,
    )
    with context:
        context.configure(
            dialect_name="postgresql",
            # The default style of parameters writes each % twice.
            dialect_opts={"paramstyle": "named"},
            output_buffer=out,
            literal_binds=True,
            transaction_per_migration=True,
            on_version_apply=_record,
        )
        out.write(f"{_CREATE_LOG};\n\n")
        with context.begin_transaction():
            context.run_migrations()
    return out.getvalue()


async def schema_version(conn: asyncpg.Connection[Any]) -> str | None:
    """The database's revision, or None where no step has run. Raises what asyncpg raises."""
    if await conn.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    version: str | None = await conn.fetchval("SELECT version_num FROM alembic_version")
    return version


async def schema_status(conn: asyncpg.Connection[Any]) -> SchemaStatus:
    """Compare the database with this release's steps. Raises what asyncpg raises."""
    known = steps()
    names = [step.revision for step in known]
    current = await schema_version(conn)
    unknown: list[str] = []
    if current is not None and current not in names:
        rows = await conn.fetch("SELECT revision FROM schema_revisions ORDER BY applied_at, revision")
        unknown = [row["revision"] for row in rows if row["revision"] not in names] or [current]
        pending: list[Step] = []
    else:
        pending = known[names.index(current) + 1 if current is not None else 0 :]
    return SchemaStatus(tuple(names), current, names[-1], tuple(pending), tuple(unknown))


async def check_schema(conn: asyncpg.Connection[Any]) -> SchemaStatus:
    """Refuse a database that this release cannot work on; returns its status otherwise.

    Steps marked ``post`` may be pending: they run after this release is rolled out. Steps of a newer release
    are accepted when each of them says that it still carries this release (``oldest_release``): a ``pre``
    step carries the release before its own, and no older one, since nobody tests that.
    Raises SchemaVersionError, and what asyncpg raises.
    """
    status = await schema_status(conn)
    missing = [step for step in status.pending if step.deploy == "pre"]
    if missing:
        raise SchemaVersionError(
            f"the database is at revision {status.current or 'none'}, this release needs "
            f"{missing[-1].revision}; run `sentinel migrate`"
        )
    if status.unknown:
        rows = await conn.fetch(
            "SELECT revision, oldest_release FROM schema_revisions WHERE revision = ANY($1)",
            list(status.unknown),
        )
        says = {row["revision"]: row["oldest_release"] for row in rows}
        ours = release_key(release())
        for revision in status.unknown:
            oldest = says.get(revision)
            if oldest is None or release_key(oldest) > ours:
                raise SchemaVersionError(
                    f"the database has revision {revision} of a newer release, which needs at least "
                    f"{oldest or 'an unrecorded release'}; this is {release()}: install the newer release"
                )
    return status


def release_key(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as "0.2.1.dev3"; patch releases never change the schema."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise SchemaVersionError(f"{version!r} is no version of this product")
    return int(match[1]), int(match[2])


def _step(script: Script) -> Step:
    module = script.module
    return Step(script.revision, script.doc.splitlines()[0], module.deploy, module.oldest_release)


def _known(directory: ScriptDirectory, revision: str) -> None:
    names = [step.revision for step in steps(directory)]
    if revision not in ("head", "base", *names):
        raise CommandError(f"unknown revision {revision!r}; known are head, base, {', '.join(names)}")


async def _lock(driver: asyncpg.Connection[Any], progress: Progress) -> None:
    # Outside any transaction: a transaction that waits here would hold its snapshot for the whole wait.
    if not await driver.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_ID):
        progress("another migration is running, waiting for it")
        await driver.execute("SELECT pg_advisory_lock($1)", LOCK_ID)


async def _unlock(driver: asyncpg.Connection[Any]) -> None:
    if not driver.is_closed():
        await driver.execute("SELECT pg_advisory_unlock($1)", LOCK_ID)


def _run(
    connection: Connection,
    directory: ScriptDirectory,
    status: SchemaStatus,
    revision: str,
    done: list[str],
    progress: Progress,
) -> None:
    down = bool(status.would_undo(revision))
    titles = {step.revision: step.title for step in steps(directory)}

    def plan(at: Any, _context: Any) -> Sequence[Any]:
        return directory._downgrade_revs(revision, at) if down else directory._upgrade_revs(revision, at)

    def note(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        _record(ctx, step, heads, run_args)
        name = (step.up_revision_ids if step.is_upgrade else step.source_revision_ids)[0]
        done.append(name)
        progress(f"{'applied' if step.is_upgrade else 'undid'} {name}: {titles[name]}")

    with EnvironmentContext(Config(), directory, fn=plan, destination_rev=revision) as context:
        context.configure(
            connection=connection,
            transaction_per_migration=True,
            on_version_apply=note,
        )
        with context.begin_transaction():
            context.run_migrations()
    connection.commit()


def _record(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
    """Alembic's hook after each step, in the step's transaction."""
    statement: Insert | Delete
    if step.is_upgrade:
        module = step.up_revision.module
        statement = insert(_LOG).values(
            revision=step.up_revision_id,
            deploy=module.deploy,
            oldest_release=module.oldest_release,
            applied_by=release(),
        )
    else:
        statement = delete(_LOG).where(_LOG.c.revision == step.source_revision_ids[0])
    ctx.impl.execute(statement)
