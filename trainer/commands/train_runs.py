"""``sentinel train start|runs|cancel|log``: training runs by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinel.command_line import settings_of

if TYPE_CHECKING:
    import asyncpg

    from sentinel.states import RunState
    from sentinel.store.training import TrainingRun

    Connection = asyncpg.Connection[Any]

Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run, or its beginning.")]
SILENT_TIMEOUTS = 3
"""Heartbeat time-outs after which a running run counts as left alone: a new trainer had its chance."""


def start(
    context: typer.Context,
    served_model: Annotated[
        str, typer.Option("--served-model", "-m", help="Which of served_models to train.")
    ],
    recipe: Annotated[
        str | None, typer.Option(help="Another recipe than training.recipe: its name or path.")
    ] = None,
    family: Annotated[
        str,
        typer.Option(help="Family of harmful prompts that has to become safer, the rest no worse; else all."),
    ] = "",
    given_actor: Annotated[str | None, typer.Option("--actor", help="Who acts, for the record.")] = None,
) -> None:
    """Start a training run now, whatever the triggers say. `sentinel trainer` works on it.

    Example: sentinel train start --served-model main
    """
    from sentinel.actors import actor
    from sentinel.jobs import workers
    from trainer.connections import with_database
    from trainer.starting import start_run

    settings = settings_of(context)

    async def work(conn: Connection) -> tuple[str, int]:
        who = actor(given_actor)
        run_id = await start_run(conn, settings, served_model, actor=who, recipe=recipe, family=family)
        return str(run_id), await workers(conn, "train")

    run_id, trainers = with_database(settings, work)
    typer.echo(run_id)
    if not trainers:
        typer.echo("no trainer takes jobs now: start `sentinel trainer`", err=True)
    else:
        typer.echo(f"queued; follow it with `sentinel train log {run_id[:8]}`", err=True)


def list_runs(
    context: typer.Context,
    served_model: Annotated[str | None, typer.Option("--served-model", "-m", help="Only this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs shown at most, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show training runs, newest first.

    Example: sentinel train runs --served-model main --json
    """
    from sentinel.store import training
    from trainer.connections import with_database

    async def work(conn: Connection) -> tuple[TrainingRun, ...]:
        return await training.runs(conn, served_model=served_model, limit=limit)

    found = with_database(settings_of(context), work)
    if as_json:
        from msgspec import json

        typer.echo(json.format(json.encode(found), indent=2).decode())
        return
    _show_table(found)


def cancel(context: typer.Context, run: Run) -> None:
    """Cancel a run: a queued one at once, a running one within seconds.

    Example: sentinel train cancel 3f2a91c0
    """
    from sentinel.states import RunState
    from sentinel.store import training
    from trainer.connections import with_database
    from trainer.starting import cancel_run

    settings = settings_of(context)
    silent_s = SILENT_TIMEOUTS * settings.training.heartbeat_timeout_s

    async def work(conn: Connection) -> RunState:
        return await cancel_run(conn, await training.find_run(conn, run), silent_s=silent_s)

    state = with_database(settings, work)
    typer.echo("cancelled" if state is RunState.CANCELLED else "its trainer stops it")


def log(
    context: typer.Context,
    run: Run,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines shown, newest last.")] = 40,
) -> None:
    """Show where a run stands and the end of its log, from the database: it need not run on this host.

    Example: sentinel train log 3f2a91c0
    """
    from sentinel.store import training
    from trainer.connections import with_database

    async def work(conn: Connection) -> TrainingRun:
        return await training.find_run(conn, run)

    found = with_database(settings_of(context), work)
    for line in found.log_tail.splitlines()[-lines:]:
        typer.echo("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line))
    typer.echo(f"{found.run_id}  {_state(found)}", err=True)
    if found.directory:
        typer.echo(f"files: {found.directory}", err=True)


def _state(run: TrainingRun) -> str:
    words = run.state.value
    if run.state.value == "running":
        words += f": {run.step or 'starting'} {run.progress:.0%}, attempt {run.attempt}"
        if run.cancel_requested:
            words += ", asked to stop"
    return f"{words}: {run.error}" if run.error else words


def _show_table(found: tuple[TrainingRun, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("run", "served model", "created", "state"):
        table.add_column(name, no_wrap=name == "run", overflow="fold")
    for run in found:
        cells = (str(run.run_id), run.served_model, f"{run.created_at:%Y-%m-%d %H:%M:%S}", _state(run))
        table.add_row(*(Text(cell) for cell in cells))
    if found:
        Console(width=max(Console().width, 140)).print(table)
    else:
        typer.echo("there are no runs")
