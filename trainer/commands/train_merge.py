"""``sentinel train merge``: base and adapter as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    base: Annotated[
        str, typer.Option(metavar="DIR|NAME", help="Folder of the base, or its name on the Hub.")
    ],
    adapter: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the adapter.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; it must not be there.")],
) -> None:
    """Write base + adapter as one model that needs no PEFT, and prove that its logits are the same.

    Example: sentinel train merge --base ./tiny-chat --adapter runs/a/finetune/adapter --out merged
    """
    from trainer.commands.progress import Bar
    from trainer.finetune.quiet import quiet
    from trainer.merge import merge as run

    with quiet(), Bar("merge") as bar:
        made = run(base, adapter, out, report=bar.report)
    typer.echo(
        f"{made.folder}: greatest difference of a logit {made.max_difference:.1e}; "
        f"adapter alone {made.adapter_bytes / 1e6:.2f} MB, merged {made.merged_bytes / 1e6:.2f} MB"
    )
