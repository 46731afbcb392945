"""``sentinel evalset``: the sets of prompts that candidates are measured on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sentinel.command_line import settings_of

if TYPE_CHECKING:
    from sentinel.settings import Settings
    from trainer.evaluation.items import SetItem
    from trainer.evidence import SetKind

app = typer.Typer(no_args_is_help=True, help="Evaluation sets: prompts that training never sees.")


@app.callback()
def evalset() -> None:
    """Commands are registered below."""


@app.command()
def build(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new set; a new set, a new name.")],
    kind: Annotated[Literal["harmful", "benign", "utility"], typer.Option(help="What its prompts are for.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where NAME.jsonl and its manifest go.")] = Path(
        "runs/evaluation-sets"
    ),
    files: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="JSONL, CSV, HarmBench or XSTest; again for more."),
    ] = None,
    traffic: Annotated[
        bool, typer.Option("--traffic/--no-traffic", help="Take prompts of reserved conversations.")
    ] = True,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Served model; else the only one.")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, help="Prompts at most.")] = 1000,
    apart: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A set that must share no prompt with the new one; again for more."
        ),
    ] = None,
) -> None:
    """Draw a set from reserved conversations (5 % by hash, never paired) and files, and freeze it by its hash.

    Duplicates and near duplicates are left out. The settings that use it are printed. Families of harmful prompts
    are the guard's categories.

    Example: sentinel evalset build --name harmful-1 --kind harmful --from harmbench.csv --max 800
    """
    from sentinel.clock import SystemClock
    from trainer.evaluation.building import choose, write_set
    from trainer.evaluation.files import read_items
    from trainer.evaluation.items import normalised
    from trainer.evidence import SetKind

    wanted = SetKind(kind)
    sources: list[tuple[str, list[SetItem]]] = []
    if traffic:
        sources.append(("traffic", _reserved(settings_of(context), model, wanted)))
    sources += [(path.name, list(read_items(path, wanted))) for path in files or ()]
    taken = {normalised(item.prompt) for path in apart or () for item in read_items(path, wanted)}
    items, given, left_out = choose(sources, most, taken)
    built = write_set(out, name, wanted, items, now=SystemClock().now(), sources=given, left_out=left_out)
    for source, count in sorted(built.sources.items()):
        typer.echo(f"{count:6} from {source}")
    for reason, count in sorted(built.left_out.items()):
        typer.echo(f"{count:6} left out: {reason}")
    path = (out / f"{name}.jsonl").absolute()
    typer.echo(f"evaluation.sets:\n  - {{name: {name}, kind: {kind}, path: {path}, sha256: {built.sha256}}}")


@app.command()
def show(
    context: typer.Context,
    prompts: Annotated[int, typer.Option(min=0, help="Prompts of each set to print.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Check the configured sets against their hashes and print what is in them, and their common version.

    Example: sentinel evalset show --prompts 3
    """
    import shutil
    import sys
    from collections import Counter

    import msgspec
    from rich.console import Console
    from rich.table import Table

    from sentinel.intervals import wilson
    from trainer.evaluation.items import version_of
    from trainer.evaluation.sets import load_sets

    sets = load_sets(settings_of(context))
    families = [Counter(item.family for item in one.items if item.family) for one in sets]
    if as_json:
        listed = [
            {"set": one.identity, "source": one.source, "families": counted}
            for one, counted in zip(sets, families, strict=True)
        ]
        told = msgspec.json.encode({"version": version_of(sets), "sets": listed})
        typer.echo(msgspec.json.format(told).decode())
        return
    width = None if sys.stdout.isatty() else max(150, shutil.get_terminal_size().columns)
    table = Table(title=f"version {version_of(sets)[:16]}", title_justify="left")
    for heading in ("set", "kind", "prompts", "certifies at most", "families", "sha256", "source"):
        table.add_column(heading)
    for one, counted in zip(sets, families, strict=True):
        n = len(one.items)
        best = f"{100 * wilson(n, n).low:.1f} %"
        told_families = ", ".join(f"{family} {count}" for family, count in counted.most_common(8))
        table.add_row(one.name, one.kind.value, str(n), best, told_families, one.sha256[:16], one.source)
    Console(width=width).print(table)
    for one in sets:
        for item in one.items[:prompts]:
            typer.echo(f"{one.name} {item.id}: {item.prompt}")


def _reserved(settings: Settings, model: str | None, kind: SetKind) -> list[SetItem]:
    """Prompts of reserved conversations; utility prompts are benign ones too."""
    from sentinel.errors import CommandError
    from trainer.connections import with_database
    from trainer.evaluation.reserved import reserved_items
    from trainer.evidence import SetKind

    known = tuple(settings.served_models)
    if model is None and len(known) != 1:
        raise CommandError(f"name a served model with --model: {', '.join(known) or 'none is configured'}")
    name = model or known[0]
    share = settings.evaluation.reserved_share
    found = with_database(settings, lambda conn: reserved_items(conn, name, share))
    return found[SetKind.HARMFUL if kind is SetKind.HARMFUL else SetKind.BENIGN]
