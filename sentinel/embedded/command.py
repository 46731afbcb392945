"""``sentinel embedded``: all embedded parts in the foreground, for trying things out."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from sentinel.command_line import settings_of


def embedded(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option(help="Where their files live; default: embedded/ in runs_dir.")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topic llm.events.")] = 4,
) -> None:
    """Run PostgreSQL, a broker, a tiny served model and its guard until SIGTERM, and restart what ends.

    A settings file for the other commands is written into the folder. The database keeps its rows; the broker
    keeps nothing, which is accepted at its next start as a new log.

    Example: sentinel embedded --folder /tmp/try   (then: sentinel --config /tmp/try/sentinel.yaml run)
    """
    settings = settings_of(context)

    from sentinel import logs

    logs.configure(settings.logging)
    place = (folder or settings.runs_dir / "embedded").absolute()
    asyncio.run(_run(place, partitions))


async def _run(folder: Path, partitions: int) -> None:
    import asyncpg

    from sentinel.embedded import VOLATILE_CLUSTER_PREFIX
    from sentinel.embedded.stack import EmbeddedStack
    from sentinel.store.engine import libpq_url
    from sentinel.store.migrate import migrate
    from sentinel.store.offsets import adopt_volatile_log

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stack = EmbeddedStack(folder, partitions=partitions)
    supervising: asyncio.Task[None] | None = None
    try:
        await stack.start()
        await migrate(stack.database_url)
        conn = await asyncpg.connect(libpq_url(stack.database_url))
        adopted = await adopt_volatile_log(conn, stack.cluster_id, prefix=VOLATILE_CLUSTER_PREFIX)
        await conn.close()
        config = stack.write_settings()
        typer.echo(f"broker    {stack.bootstrap} (not durable: it keeps about 5 MB a partition, in memory)")
        typer.echo(f"database  {folder / 'postgres'}")
        typer.echo(f"model     {stack.model_url}")
        typer.echo(f"guard     {stack.guard_url}")
        if adopted:
            typer.echo(f"{adopted} partitions of an earlier broker begin again")
        typer.echo(f"now run   sentinel --config {config} run")
        supervising = asyncio.create_task(stack.supervise(), name="supervise")
        ending = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait([supervising, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if supervising.done():
            await supervising
    finally:
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await stack.stop()
