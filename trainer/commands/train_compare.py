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
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write figures, and what they came from, as JSON.")
    ] = None,
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
    from trainer.run_directory import replace_file

    evidence = beside(read_evidence(first), read_evidence(second))
    summary = summarise(evidence)
    checked = check(summary)
    made = {
        "schema_version": 1,
        "first": _origin(first),
        "second": _origin(second),
        "summary": summary,
        "targets": checked,
    }
    written = msgspec.json.format(msgspec.json.encode(made))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, written)
    if not as_json:
        show(summary, f"{evidence.candidate} beside {evidence.incumbent}", strict=strict)
        return
    typer.echo(written.decode())
    if strict and not all(one.reached for one in checked):
        raise typer.Exit(1)


def _origin(folder: Path) -> dict[str, str]:
    """Which evaluation, by the hash of its evidence."""
    from sentinel.digests import sha256_of
    from trainer.evaluation.run import EVIDENCE

    return {"folder": str(folder.absolute()), "evidence_sha256": sha256_of(folder / EVIDENCE)}
