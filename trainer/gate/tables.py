"""A report as tables on a terminal."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from trainer.gate.report import Check, GateReport

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 170
"""Columns where the output is no terminal, so that a log holds whole sentences."""


def report_tables(report: GateReport) -> tuple[Table, Table]:
    """The checks, and the counts over all prompts and by family."""
    title = (
        f"{report.candidate} against {report.incumbent or 'the base'}: {report.verdict.value}"
        f" (policy {report.policy} {report.policy_sha256[:12]}, try {report.k}, level {report.level:.3g})"
    )
    checks = table(
        title, ("", "check", "asks", "value", "interval", "limit", "n", "p"), wide=frozenset({"asks"})
    )
    for check in report.checks:
        checks.add_row(*_row(check))
    groups = table("counts", ("property", "family", "n", "in service", "candidate"))
    for group in report.groups:
        groups.add_row(
            group.told,
            group.family or "(all)",
            str(group.n),
            f"{group.incumbent} ({100 * group.incumbent / group.n:.1f} %)",
            f"{group.candidate} ({100 * group.candidate / group.n:.1f} %)",
        )
    return checks, groups


def _row(check: Check) -> tuple[str, ...]:
    return (
        check.outcome.value,
        check.name,
        check.asks,
        _number(check.value),
        "" if check.low is None or check.high is None else f"{check.low:.4f} to {check.high:.4f}",
        _number(check.limit),
        "" if check.n is None else str(check.n),
        "" if check.p is None else f"{check.p:.3g}",
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1 and value.is_integer() else f"{value:.4f}"


def table(title: str, columns: tuple[str, ...], wide: frozenset[str] = frozenset()) -> Table:
    """An empty table; columns not in ``wide`` are never wrapped. `show` prints texts as they are, without markup."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=bool(wide) and column not in wide, overflow="fold")
    return made


def show(*tables: Table) -> None:
    """Print tables to stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else max(WIDTH, shutil.get_terminal_size().columns)
    console = Console(width=width, markup=False, highlight=False)
    for one in tables:
        # A title inside the table would be folded to the table's width, and a hash could not be copied.
        console.print(one.title or "", soft_wrap=True)
        one.title = None
        console.print(one)
