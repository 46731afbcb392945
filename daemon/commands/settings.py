"""``sentinel settings``: what is in effect and where it came from, and the commented example file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import invocation_of

if TYPE_CHECKING:
    from sentinel.settings.show import Row

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Show the effective settings, or the commented example file.",
)


@app.command(epilog="Example: [bold]sentinel settings show --json[/bold]")
def show(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: {key: {value, origin}}.")] = False,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="The defaults, whatever is configured.")
    ] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not a default.")] = False,
) -> None:
    """Print every setting with its value and where it came from; secrets are masked."""
    from sentinel.settings import show as settings_show

    if defaults:
        rows = settings_show.defaults()
    else:
        loaded = invocation_of(context).load()
        rows = settings_show.rows(loaded)
        for note in loaded.notes:
            typer.echo(f"note: {note}", err=True)
    if changed:
        rows = [row for row in rows if row.origin != settings_show.DEFAULT]
    if as_json:
        import orjson

        document = {row.key: {"value": row.value, "origin": row.origin} for row in rows}
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    _print_table(rows)


@app.command()
def example() -> None:
    """Print the settings file with every key, its meaning and its default."""
    from sentinel.settings.example import example as text

    typer.echo(text(), nl=False)


def _print_table(rows: list[Row]) -> None:
    import orjson
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    widest = 0
    for row in rows:
        value = row.value if isinstance(row.value, str) else orjson.dumps(row.value).decode()
        widest = max(widest, len(value), len(row.origin))
        # Text, not markup: a value in square brackets would vanish.
        cells = (Text(cell) for cell in (row.key, value, row.origin))
        table.add_row(*cells, style="dim" if row.origin == "default" else "")
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: folded columns would break what `grep` and `awk` look for.
        console = Console(width=100 + 2 * widest)
    console.print(table)
