"""``sentinel migrate``: the only migrator. The service itself only checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError, UnavailableError

if TYPE_CHECKING:
    from sentinel.settings import Database
    from sentinel.store.migrate import SchemaStatus


def migrate(
    context: typer.Context,
    to: Annotated[str, typer.Option(help="Revision to go to, up or down: head, base or a number.")] = "head",
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
    try:
        if status:
            found = asyncio.run(_status(database))
            _say(found)
            if found.pending:
                raise typer.Exit(1)
            return
        ran = asyncio.run(run(database.url.get_secret_value(), to, progress=typer.echo))
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"the database cannot be reached: {error}") from error
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


def _say(found: SchemaStatus) -> None:
    typer.echo(f"database: {found.current or 'no revision'}; this release: {found.head}")
    for step in found.pending:
        typer.echo(f"pending ({step.deploy}-deploy): {step.revision} {step.title}")
    for revision in found.unknown:
        typer.echo(f"of a newer release: {revision}")
