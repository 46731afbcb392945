"""``sentinel migrate``: the only migrator. The service itself only checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError, ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sentinel.settings import Database
    from sentinel.store.migrate import SchemaStatus

T = TypeVar("T")


def migrate(
    context: typer.Context,
    to: Annotated[str, typer.Option(help="Revision to go to, up or down: head, base or a number.")] = "head",
    yes: Annotated[
        bool, typer.Option("--yes", help="Go down: drop the tables of the later revisions with their rows.")
    ] = False,
    status: Annotated[
        bool,
        typer.Option("--status", help="Only say where the database stands; exit 1 where steps are pending."),
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Only print the SQL that an empty database would need, for review.")
    ] = False,
) -> None:
    """Bring the database's schema to this release's revision."""
    from sentinel.store.migrate import migrate as run
    from sentinel.store.migrate import offline_sql

    if sql and status:
        raise CommandError("--sql and --status exclude each other")
    if sql:
        typer.echo(offline_sql(to), nl=False)
        return
    database = settings_of(context).database
    found = _database(_status(database))
    if status:
        _say(found)
        raise typer.Exit(1 if found.pending else 0)
    if to not in ("head", "base", *found.known):
        raise CommandError(f"unknown revision {to!r}; known are head, base, {', '.join(found.known)}")
    if (undone := found.would_undo(to)) and not yes:
        raise CommandError(f"this drops what {', '.join(undone)} made, rows included; say --yes to do it")
    ran = _database(run(database.url.get_secret_value(), to, progress=typer.echo))
    typer.echo(
        f"{len(ran)} step(s), the schema is at {to}" if ran else f"nothing to do, the schema is at {to}"
    )


async def _status(database: Database) -> SchemaStatus:
    from sentinel.store.engine import create_engine, raw_connection
    from sentinel.store.migrate import schema_status

    engine = create_engine(database)
    try:
        async with raw_connection(engine) as conn:
            return await schema_status(conn)
    finally:
        await engine.dispose()


def _database(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``; what the server answers becomes a sentence, with no URL in it: it holds the password."""
    from asyncpg import PostgresError
    from sqlalchemy.exc import DBAPIError

    from sentinel.store.engine import classify

    try:
        return asyncio.run(work)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"the database cannot be reached: {error}") from error
    except (PostgresError, DBAPIError) as error:
        state = str(getattr(getattr(error, "orig", error), "sqlstate", ""))
        words = str(getattr(error, "orig", error)).splitlines()[0]
        if classify(error) in ("unavailable", "retry"):
            raise UnavailableError(f"the database is busy or away: {words}") from error
        if state.startswith(("28", "3D", "42501")):
            raise ConfigurationError(f"the database refuses database.url's user: {words}") from error
        raise


def _say(found: SchemaStatus) -> None:
    typer.echo(f"database: {found.current or 'no revision'}; this release: {found.head}")
    for step in found.pending:
        typer.echo(f"pending ({step.deploy}-deploy): {step.revision} {step.title}")
    for revision in found.unknown:
        typer.echo(f"of a newer release: {revision}")
