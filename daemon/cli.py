"""The command ``sentinel``: options that stand for every subcommand, and the subcommands found by name.

Subcommands register in the entry-point group ``sentinel.commands`` as a function or a Typer application, so no
import crosses a layer, and only the one that is called is imported. Exit status: 0 done, 1 failed, 2 asked for
what cannot be done, 78 configuration, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from daemon.plugins import PluginGroup
from sentinel.command_line import Invocation, exit_status
from sentinel.errors import SentinelError

DISTRIBUTION = "sentinel-loop"

app = typer.Typer(
    name="sentinel",
    cls=PluginGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    # Tracebacks with local variables would print prompts and passwords.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sentinel {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback(
    epilog="Examples: [bold]sentinel settings show[/bold]  ·  [bold]sentinel --config site.yaml doctor[/bold]  ·  "
    "[bold]sentinel run --set kafka.group_id=trial[/bold]"
)
def _sentinel(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings file; else $SENTINEL_CONFIG, else /etc/sentinel/sentinel.yaml.",
        ),
    ] = None,
    flags: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, above all others; repeatable."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Watch what a language model says in production, and make it safer from that."""
    del version
    context.obj = Invocation(config, tuple(flags or ()), debug)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its status."""
    # Made anew by the group's callback, but a failure before that (a wrong option) has no context either.
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="sentinel")
    except SentinelError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(exit_status(error))


if __name__ == "__main__":
    main()
