"""``sentinel train``: each step of the loop as a command of its own."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="From findings to a promoted adapter: pairs, dataset, finetune, evaluate, gate, promote.",
)


@app.callback()
def train() -> None:
    """Steps are registered by the modules of this package."""
