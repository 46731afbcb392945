"""``sentinel train compare``: two finished evaluations beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where B misses a target on the interval's bad side.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Compare the candidates of two evaluations on the prompts that both were asked: McNemar, paired bootstrap.

    A stands as incumbent, B as candidate.

    Example: sentinel train compare runs/a/evaluation runs/b/evaluation
    """
    import msgspec

    from trainer.commands.evaluation_tables import show
    from trainer.evaluation.comparing import beside
    from trainer.evaluation.run import read_evidence
    from trainer.evaluation.summary import summarise
    from trainer.evaluation.targets import check

    evidence = beside(read_evidence(first), read_evidence(second))
    summary = summarise(evidence)
    if not as_json:
        show(summary, f"{evidence.candidate} beside {evidence.incumbent}", strict=strict)
        return
    checked = check(summary)
    typer.echo(msgspec.json.format(msgspec.json.encode({"summary": summary, "targets": checked})).decode())
    if strict and not all(one.reached for one in checked):
        raise typer.Exit(1)
