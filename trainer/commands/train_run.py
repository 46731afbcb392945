"""``sentinel train run``: all steps of one run, as `sentinel trainer` starts them."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

import typer

from sentinel.command_line import settings_of


def run(
    context: typer.Context,
    run_id: Annotated[UUID, typer.Option(help="A run of `sentinel train runs`.")],
) -> None:
    """Make one run: data set, fine-tuning, evaluation, gate, and the job that promotes.

    `sentinel trainer` starts this for every job. By hand it goes on with a run whose trainer is gone; while another
    process works on the run, this one is refused.

    Example: sentinel train run --run-id 0190f3c2-7d3a-7c61-9d7e-3f0a5c1d2e4b
    """
    settings = settings_of(context)

    from sentinel import logs
    from sentinel.clock import SystemClock
    from trainer.commands.progress import Bar
    from trainer.execution import execute
    from trainer.run_directory import group_readable

    logs.configure(settings.logging)
    with group_readable(), Bar("run") as bar:
        verdict = asyncio.run(execute(settings, run_id, SystemClock(), bar.report))
    typer.echo(f"the gate's verdict: {verdict}")
