"""``sentinel check``: would ``sentinel run`` start? And the systemd units of this installation."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from sentinel.command_line import settings_of

EX_UNAVAILABLE = 69
"""sysexits.h: a service that is needed is away."""
EX_TEMPFAIL = 75
"""sysexits.h: try again later."""


def check(
    context: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only settings and files; no question to the database.")
    ] = False,
    write_units: Annotated[
        Path | None,
        typer.Option(
            "--write-units",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Write the systemd units, with this installation's path in them, and do nothing else.",
        ),
    ] = None,
) -> None:
    """Say within two seconds whether `sentinel run` would start; change nothing.

    Looks at settings, certificates and keys, the guard's grammar, the health address and the database's schema, and
    at nothing that may be away while the daemon runs. For everything else there is `sentinel doctor`.

    Exit status: 0 it would start, 69 the database is away, 75 the database is slow or starting (try again), 78 the
    configuration or the schema is wrong (a restart cannot help).

    Meant for scripts, before a restart: sentinel check && systemctl restart 'sentinel@*'. The unit does not call it:
    systemd applies RestartPreventExitStatus=78 to the main process only, and `run` ends with 78 by itself.
    """
    if write_units is not None:
        _write_units(write_units)
        return
    from daemon.precheck import BusyError, precheck
    from sentinel.errors import UnavailableError

    settings = settings_of(context)
    try:
        asyncio.run(precheck(settings, database=not offline))
    except UnavailableError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EX_TEMPFAIL if isinstance(error, BusyError) else EX_UNAVAILABLE) from error
    typer.echo("`sentinel run` would start" + (" (the database was not asked)" if offline else ""))


def _write_units(folder: Path) -> None:
    from daemon import units

    command = Path(sys.argv[0])
    for file in units.write_units(folder, command):
        typer.echo(str(file))
    if (hidden := units.hidden_place(command)) is not None:
        typer.echo(
            f"warning: ProtectHome= hides {hidden} from the service; install the product outside of it",
            err=True,
        )
