"""``sentinel train finetune``: an adapter from a data set, by a recipe."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.finetune.outcome import Finetuned


def finetune(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with train.jsonl and validation.jsonl.")
    ],
    base: Annotated[
        str, typer.Option(metavar="DIR|NAME", help="Folder of the base, or its name on the Hub.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; begun before, it is resumed.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A recipe of configs/train, or a YAML file.")
    ] = "default",
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of a summary.")] = False,
) -> None:
    """Train a LoRA or QLoRA adapter by DPO or SFT.

    Stopped and started again with the same options it goes on from its last checkpoint. The checkpoint is chosen by
    the model's answers to validation prompts, graded as evaluation.primary and evaluation.utility say. Several GPUs:
    accelerate launch --config_file configs/accelerate/ddp.yaml -m daemon.cli train finetune …

    Example: sentinel train finetune --dataset runs/a/dataset --base ./tiny-chat --recipe tiny --out runs/a/finetune
    """
    from rich.console import Console

    from sentinel.clock import SystemClock
    from trainer.commands.progress import Bar
    from trainer.finetune.base import check_hardware
    from trainer.finetune.quiet import quiet
    from trainer.finetune.recipe import load_recipe
    from trainer.finetune.run import finetune as run
    from trainer.reporting import silent
    from trainer.run_directory import RunDirectory
    from trainer.scorers.grader import make_grader

    grader = make_grader(settings_of(context))
    wanted = load_recipe(recipe)
    with quiet():
        from accelerate import PartialState

        # Of the processes of `accelerate launch` or `torchrun` the first one locks the folder and speaks.
        first = bool(PartialState(cpu=check_hardware(wanted) == "cpu").is_main_process)
    with contextlib.ExitStack() as stack:
        report = silent
        if first:
            stack.enter_context(RunDirectory.hold(out, SystemClock()))
            report = stack.enter_context(Bar("fine-tune")).report
        made = run(dataset, base, wanted, out, seed=seed, grader=grader, report=report)
    if not first:
        return
    if as_json:
        typer.echo((out / "manifest.json").read_text())
        return
    _print(made, Console())


def _print(made: Finetuned, console: Console) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in (
        ("adapter", str(made.adapter)),
        (
            "weights",
            f"sha256 {made.weights_sha256[:12]}, {made.adapter_bytes / 1e6:.2f} MB, rank {made.rank}",
        ),
        ("steps", f"{made.steps} of {made.planned_steps}{f'; {made.stopped}' if made.stopped else ''}"),
        ("checkpoint", f"{made.chosen_step}: {made.why}"),
        ("base", f"{made.base}, sha256 {made.base_sha256[:12]}, unchanged"),
    ):
        table.add_row(name, value)
    console.print(table)
