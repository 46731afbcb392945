"""``sentinel train compose``: several adapters as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.compose import Part


def compose(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER=WEIGHT...", help="Folders of adapters of one base; a weight of 1 is as trained."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; it must not be there.")],
    max_rank: Annotated[int, typer.Option(min=1, help="The engine's max_lora_rank; ranks add up.")] = 64,
) -> None:
    """Write the weighted sum of several adapters as one adapter. Nothing is approximated, so their ranks add up.

    It is a new adapter: evaluate it and let the gate decide before it is promoted.

    Example: sentinel train compose runs/a/finetune/adapter=1 runs/b/finetune/adapter=0.5 --out both
    """
    from trainer.compose import compose as run
    from trainer.finetune.naming import adapter_sha256

    rank = run([_part(one) for one in adapters], out, max_rank=max_rank)
    typer.echo(f"{out}: rank {rank}, sha256 {adapter_sha256(out)[:12]}")


def _part(given: str) -> Part:
    from trainer.compose import Part

    folder, equals, weight = given.rpartition("=")
    try:
        return Part(Path(folder), float(weight)) if equals else Part(Path(given), 1.0)
    except ValueError:
        raise typer.BadParameter(f"{weight!r} is no number", param_hint="ADAPTER=WEIGHT") from None
