"""``sentinel offsets``: accept another log under a stored position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from daemon.commands.operators import with_database
from sentinel.actors import actor
from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from consumers.bounds import LogBounds
    from sentinel.store.connections import Connect
    from sentinel.store.halts import PartitionState

app = typer.Typer(no_args_is_help=True, help="Stored positions in the log.")


@app.callback()
def offsets() -> None:
    """Stored positions in the log."""


@app.command("reset")
def reset_partition(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="Topic of the halted partition.")],
    partition: Annotated[int, typer.Argument(min=0, help="Number of the halted partition.")],
    to: Annotated[str, typer.Option(help="Where the new log is read from: earliest, latest or an offset.")],
    yes: Annotated[bool, typer.Option("--yes", help="Needed: the old position is given up.")] = False,
    given_actor: Annotated[str | None, typer.Option("--actor", help="Who acts, for the audit log.")] = None,
) -> None:
    """Clear a halt as foreign: the topic was made anew, or another cluster stands behind the address.

    The partition gets a new incarnation, so that events without an id of their own are not taken for those of
    the old log. What the old log held and was not read is lost to this service.

    Example: sentinel offsets reset llm.events 3 --to earliest --yes
    """
    from sentinel.store import halts

    settings = settings_of(context)
    who = actor(given_actor)
    if to not in ("earliest", "latest") and not to.isdecimal():
        raise CommandError("--to is earliest, latest or an offset")
    if not yes:
        raise CommandError(
            f"the stored position of {topic}/{partition} would be given up; say --yes to do it"
        )

    async def work(connect: Connect) -> tuple[PartitionState, int]:
        from consumers.bounds import read_bounds

        bounds = await read_bounds(settings.kafka, topic, partition)
        start = _start(bounds, to)
        async with connect() as conn, conn.transaction():
            state = await halts.reset(
                conn, topic, partition, next_offset=start, cluster_id=bounds.cluster_id, actor=who
            )
        return state, start

    state, start = with_database(settings, work)
    typer.echo(
        f"{topic}/{partition} is read from offset {start} as incarnation {state.incarnation + 1}"
        f" (it stood at {state.next_offset})"
    )


def _start(bounds: LogBounds, to: str) -> int:
    if to == "earliest":
        return bounds.beginning
    if to == "latest":
        return bounds.end
    if not bounds.beginning <= int(to) <= bounds.end:
        raise CommandError(f"the log holds offsets {bounds.beginning} to {bounds.end}: {to} is outside")
    return int(to)
