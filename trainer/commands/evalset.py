"""``sentinel evalset``: the sets of prompts that candidates are measured on."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Evaluation sets: prompts that training never sees.")


@app.callback()
def evalset() -> None:
    """Commands are registered below."""
