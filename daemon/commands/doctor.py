"""``sentinel doctor``: what is missing or wrong, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import Invocation, invocation_of

if TYPE_CHECKING:
    from daemon.doctor.report import Finding

_STYLES = {"fail": "bold red", "warn": "yellow", "ok": "green"}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings are problems too (exit status 1).")
    ] = False,
) -> None:
    """Look at every part that the service needs, and name each remedy.

    Installation, settings, secret files, disk, PostgreSQL (schema, partitions, backlogs, halted partitions), Kafka
    (topics and their settings, rights, lag), guard, served models, adapters. Nothing is changed: what replicas are
    asked to load, to see how far they come, is a folder without weights that they have to refuse.

    The daemon's secrets are in credential files; root examines with them so:
    CREDENTIALS_DIRECTORY=/etc/sentinel/credentials sentinel doctor

    Exit status: 0 all in order or only warnings, 1 at least one problem.

    Example: sentinel doctor --json | jq '.findings[] | select(.level == "fail")'
    """
    from daemon.doctor.report import as_json as to_json
    from daemon.doctor.report import exit_status, masked, most_severe_first
    from sentinel import logs

    # aiokafka logs each failed connection attempt, in its own words.
    logs.silence_libraries()
    found, secrets = asyncio.run(diagnose(invocation_of(context)))
    findings = most_severe_first(masked(found, secrets))
    status = exit_status(findings, strict=strict)
    if as_json:
        typer.echo(to_json(findings, status=status))
    else:
        _show(findings)
    raise typer.Exit(status)


async def diagnose(invocation: Invocation) -> tuple[list[Finding], list[str]]:
    """Everything that can be examined, and the secrets to mask. Parts whose ground is missing are left out.

    Never raises for what is missing or wrong: that is what it finds.
    """
    from daemon.doctor.installation import examine_installation
    from daemon.doctor.report import fail
    from sentinel.errors import ConfigurationError

    found = examine_installation()
    try:
        loaded = invocation.load()
    except ConfigurationError as error:
        remedy = "correct them; `sentinel settings example` shows every key"
        return [*found, *(fail("settings", line, remedy) for line in _problems(str(error)))], []
    except ImportError:
        return found, []  # the missing package is named already

    from daemon.doctor.selection import local_findings, missing_parts, server_checks

    missing = missing_parts()
    if missing:
        return [*found, *missing], []
    from daemon.doctor.configuration import secrets_of
    from daemon.doctor.examination import examine
    from sentinel.clock import SystemClock

    found += local_findings(loaded)
    found += await examine(server_checks(loaded.settings, SystemClock()))
    return found, secrets_of(loaded.settings)


def _problems(message: str) -> list[str]:
    """The lines of a settings error, without the headline that only counts them."""
    lines = [line.strip() for line in message.splitlines()]
    return lines[1:] if len(lines) > 1 else lines


def _show(findings: Sequence[Finding]) -> None:
    from daemon.doctor.report import as_lines, summary

    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        typer.echo(as_lines(findings))
        return
    console = Console()
    if not console.is_terminal:
        # Folded or padded columns would break what `grep` and a mail look for.
        typer.echo(as_lines(findings))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for finding in findings:
        text = Text(finding.message)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.level.value, style=_STYLES[finding.level.value]), finding.part, text)
    console.print(table)
    console.print(summary(findings))
