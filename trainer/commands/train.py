"""``sentinel train``: each step of the loop as a command of its own."""

from __future__ import annotations

import typer

from trainer.commands import train_gate, train_promote, train_runs
from trainer.commands.train_compare import compare
from trainer.commands.train_compose import compose
from trainer.commands.train_dataset import dataset
from trainer.commands.train_evaluate import evaluate
from trainer.commands.train_finetune import finetune
from trainer.commands.train_merge import merge
from trainer.commands.train_pairs import pairs
from trainer.commands.train_publish import publish
from trainer.commands.train_run import run

app = typer.Typer(
    no_args_is_help=True,
    help="From findings to a promoted adapter: pairs, dataset, finetune, evaluate, gate, promote.",
)


@app.callback()
def train() -> None:
    """Steps are registered by the modules of this package."""


app.command("pairs")(pairs)
app.command("dataset")(dataset)
app.command("finetune")(finetune)
app.command("evaluate")(evaluate)
app.command("compare")(compare)
app.command("merge")(merge)
app.command("compose")(compose)
app.command("start")(train_runs.start)
app.command("runs")(train_runs.list_runs)
app.command("cancel")(train_runs.cancel)
app.command("log")(train_runs.log)
app.add_typer(train_gate.app, name="gate")
app.command("run")(run)
app.command("publish")(publish)
app.command("promote")(train_promote.promote)
app.command("approve")(train_promote.approve)
app.command("reject")(train_promote.reject)
app.command("rollback")(train_promote.rollback)
app.command("adapters")(train_promote.adapters)
