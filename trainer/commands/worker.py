"""``sentinel trainer``: the process that takes training, promotion and rollback jobs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from sentinel.command_line import invocation_of, settings_of

if TYPE_CHECKING:
    from sentinel.command_line import Invocation


def trainer(
    context: typer.Context,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="train|serve",
            help="Only training runs, or only promotions and rollbacks (on a host without a GPU).",
        ),
    ] = None,
) -> None:
    """Take training, promotion and rollback jobs until SIGTERM.

    Example: sentinel trainer --config /etc/sentinel/sentinel.yaml
    """
    if only not in (None, "train", "serve"):
        raise typer.BadParameter("train or serve", param_hint="--only")
    settings = settings_of(context)

    from sentinel import logs
    from trainer.run_directory import group_readable
    from trainer.worker import LANES, Worker, handle_signals

    logs.configure(settings.logging)

    async def main() -> None:
        worker = Worker(settings, run_command(invocation_of(context)), lanes=(only,) if only else LANES)
        handle_signals(worker)
        await worker.run()

    with group_readable():
        asyncio.run(main())


def run_command(invocation: Invocation) -> Callable[[UUID], Sequence[str]]:
    """What works on a run: this program again, with the options that it was given."""
    options: list[str] = []
    if invocation.config is not None:
        options += ["--config", str(invocation.config)]
    for flag in invocation.flags:
        options += ["--set", flag]
    if invocation.debug:
        options.append("--debug")

    def command(run_id: UUID) -> Sequence[str]:
        return [sys.executable, "-m", "daemon.cli", *options, "train", "run", "--run-id", str(run_id)]

    return command
