"""``sentinel train promote|approve|reject|rollback|adapters``: who enters service, who leaves it, by whose word."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    import asyncpg

    from sentinel.promotions import Promotion
    from sentinel.settings import Settings
    from sentinel.store.adapters import AdapterRow, Move

    Connection = asyncpg.Connection[Any]

Which = Annotated[
    str, typer.Argument(metavar="ADAPTER|RUN", help="Name of the adapter, or id of the run that made it.")
]
Actor = Annotated[
    str | None,
    typer.Option("--actor", help="Who acts, for the audit log; else the account and the host."),
]
Comment = Annotated[str, typer.Option("--comment", help="Kept with the decision.")]


def promote(
    context: typer.Context,
    which: Which,
    approve_too: Annotated[
        bool, typer.Option("--approve", help="Approve it as well, in the name of --actor.")
    ] = False,
    given_actor: Actor = None,
) -> None:
    """Bring an adapter that passed the gate into service; called again, finish what was interrupted.

    It is loaded into every replica and has to answer as it was measured; then it is announced. No daemon is needed:
    the announcement leaves with the next one that runs.

    Example: sentinel train promote main-3f2a91c05d7e --approve
    """
    from sentinel.actors import actor
    from sentinel.store.adapters import find_adapter
    from sentinel.store.admission import decide
    from sentinel.store.migrate import check_schema
    from trainer import promote as promotion
    from trainer.commands.progress import Bar
    from trainer.connections import connections

    settings = settings_of(context)
    who = actor(given_actor)

    async def run() -> Promotion:
        async with connections(settings) as connect:
            async with connect() as conn:
                await check_schema(conn)
                row = await find_adapter(conn, which)
                if approve_too:
                    await decide(conn, row.adapter, actor=who, decision="approve")
            with Bar("promote") as bar:
                return await promotion.promote(
                    connect, settings, row.served_model, row.adapter, actor=who, report=bar.report
                )

    done = asyncio.run(run())
    typer.echo(
        f"{done.adapter} is in service for {done.served_model}, generation {done.generation}"
        f" (before: {done.previous_adapter or 'the base'})"
    )


def approve(context: typer.Context, which: Which, comment: Comment = "", given_actor: Actor = None) -> None:
    """Let an adapter in, where promotions are manual. With enough approvals its promotion is queued.

    Example: sentinel train approve main-3f2a91c05d7e --comment "read the report"
    """
    from sentinel.actors import actor
    from sentinel.jobs import JobKind, JobPayload, enqueue
    from sentinel.store.adapters import find_adapter
    from sentinel.store.admission import decide
    from trainer.connections import with_database

    settings = settings_of(context)
    who = actor(given_actor)
    needed = settings.promotion.approvals

    async def work(conn: Connection) -> tuple[AdapterRow, int, bool]:
        row = await find_adapter(conn, which)
        async with conn.transaction():
            count = await decide(conn, row.adapter, actor=who, decision="approve", comment=comment)
            queued = False
            if count >= needed and row.run_id is not None:
                payload = JobPayload(kind=JobKind.PROMOTE, run_id=row.run_id, served_model=row.served_model)
                queued = await enqueue(conn, payload)
        return row, count, queued

    row, count, queued = with_database(settings, work)
    typer.echo(f"{row.adapter}: {count} of {needed} approvals")
    if queued:
        typer.echo("its promotion is queued for `sentinel trainer`", err=True)
    elif count >= needed:
        typer.echo(f"bring it into service with `sentinel train promote {row.adapter}`", err=True)


def reject(context: typer.Context, which: Which, comment: Comment = "", given_actor: Actor = None) -> None:
    """Keep an adapter out. One that is being loaded is given up by its promotion.

    Example: sentinel train reject main-3f2a91c05d7e --comment "refuses recipes"
    """
    from sentinel.actors import actor
    from sentinel.store.adapters import find_adapter
    from sentinel.store.admission import decide
    from trainer.connections import with_database

    who = actor(given_actor)

    async def work(conn: Connection) -> str:
        row = await find_adapter(conn, which)
        await decide(conn, row.adapter, actor=who, decision="reject", comment=comment)
        return row.adapter

    typer.echo(f"{with_database(settings_of(context), work)} is rejected")


def rollback(
    context: typer.Context,
    served_model: Annotated[
        str | None, typer.Option("--served-model", "-m", help="Which one; needed where there are several.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
    given_actor: Actor = None,
) -> None:
    """Take the adapter in service out of it and put back what it replaced. Needs the database alone.

    Example: sentinel train rollback --served-model main --reason "complaints"
    """
    from sentinel.actors import actor
    from sentinel.store.migrate import check_schema
    from trainer import rollback as back
    from trainer.connections import connections

    settings = settings_of(context)
    name = _only(settings, served_model)
    who = actor(given_actor)

    async def run() -> Promotion | None:
        async with connections(settings) as connect:
            async with connect() as conn:
                await check_schema(conn)
            return await back.rollback(connect, settings, name, actor=who, reason=reason)

    done = asyncio.run(run())
    if done is None:
        raise CommandError(f"{name} has changed meanwhile: see `sentinel train adapters`")
    typer.echo(
        f"{done.previous_adapter} is out of service for {name}, generation {done.generation};"
        f" now: {done.adapter or 'the base'}"
    )


def adapters(
    context: typer.Context,
    served_model: Annotated[str | None, typer.Option("--served-model", "-m", help="Only this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Adapters shown at most, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show adapters, their state, and every state that they were in.

    Example: sentinel train adapters --served-model main
    """
    from sentinel.store.adapters import find_adapters, history
    from trainer.connections import with_database

    async def work(conn: Connection) -> tuple[list[AdapterRow], dict[str, tuple[Move, ...]]]:
        rows = await find_adapters(conn, served_model, limit=limit)
        return rows, await history(conn, [row.adapter for row in rows])

    rows, moves = with_database(settings_of(context), work)
    if as_json:
        from msgspec import json, to_builtins

        listed = [
            {**to_builtins(row, enc_hook=str), "history": to_builtins(moves[row.adapter])} for row in rows
        ]
        typer.echo(json.format(json.encode(listed), indent=2).decode())
        return
    _show_table(rows, moves)


def _only(settings: Settings, given: str | None) -> str:
    """The served model that is meant, where there is one to choose."""
    if given is not None:
        return given
    names = list(settings.served_models)
    if len(names) != 1:
        raise CommandError(f"say which with --served-model: {', '.join(names) or 'none is configured'}")
    return names[0]


def _show_table(rows: list[AdapterRow], moves: dict[str, tuple[Move, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("adapter", "served model", "state", "run", "history"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            row.adapter,
            row.served_model,
            row.state.value,
            str(row.run_id)[:8] if row.run_id else "-",
            ", ".join(f"{move.state.value} {move.at:%m-%d %H:%M:%S}" for move in moves[row.adapter]),
        )
    Console().print(table)
