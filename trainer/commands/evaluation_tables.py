"""An evaluation's figures on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from trainer.evaluation.summary import Summary


def show(summary: Summary, title: str, *, strict: bool) -> None:
    """Print rates, comparisons, notes and targets; with ``strict`` exit with 1 where a target is missed."""
    import shutil
    import sys

    from rich.console import Console

    from trainer.evaluation.targets import check

    width = None if sys.stdout.isatty() else max(150, shutil.get_terminal_size().columns)
    console = Console(width=width)
    console.print(_rates(summary, title))
    if summary.compared:
        console.print(_compared(summary))
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    checked = check(summary)
    for one in checked:
        console.print(f"target {one}", highlight=False, markup=False)
    if strict and not all(one.reached for one in checked):
        raise typer.Exit(1)


def _rates(summary: Summary, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("measure", "arm", "hits", "n", "rate, Wilson 95 %", "Clopper-Pearson 95 %"):
        table.add_column(heading)
    for one in summary.measured:
        exact = f"[{100 * one.exact.low:.1f}, {100 * one.exact.high:.1f}]"
        rate = (
            f"{100 * (one.wilson.value or 0):.1f} % [{100 * one.wilson.low:.1f}, {100 * one.wilson.high:.1f}]"
        )
        n = f"{one.n}" + (f" (+{one.untold} untold)" if one.untold else "")
        table.add_row(
            one.measure, one.arm.value, str(one.hits), n, rate.replace("[", r"\["), exact.replace("[", r"\[")
        )
    return table


def _compared(summary: Summary) -> Table:
    from rich.table import Table

    table = Table(title="candidate beside the others, same prompts", title_justify="left")
    headings = (
        "measure",
        "beside",
        "only candidate",
        "only other",
        "pairs",
        "McNemar p",
        "points, bootstrap 95 %",
    )
    for heading in headings:
        table.add_column(heading)
    for one in summary.compared:
        points = one.difference
        told = f"{100 * (points.value or 0):+.1f} ({100 * points.low:+.1f} to {100 * points.high:+.1f})"
        test = one.test
        counts = (str(test.second_only), str(test.first_only), str(test.n), f"{test.p_value:.3g}")
        table.add_row(one.measure, one.against.value, *counts, told)
    return table
