"""How the commands of the loop show a step's progress: a bar on a terminal, ten lines elsewhere; always on stderr."""

from __future__ import annotations

from typing import Self

import typer

from trainer.reporting import Stage


class Bar:
    """Shows the stages that `report` is given."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._title = title
        self._told = -1
        self._terminal = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
        )
        self._task = self._bar.add_task(title, total=None, detail="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def report(self, stage: Stage) -> None:
        """Show where a step stands: a `trainer.reporting.Report`."""
        self._bar.update(self._task, completed=stage.done, total=stage.total or None, detail=stage.detail)
        tenth = 10 * stage.done // stage.total if stage.total else 0
        if not self._terminal and (tenth != self._told or stage.done == stage.total):
            self._told = tenth
            typer.echo(f"{self._title}: {stage.done} of {stage.total}, {stage.detail}", err=True)
