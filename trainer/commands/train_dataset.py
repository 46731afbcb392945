"""``sentinel train dataset``: a data set from the store's pairs, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentinel.command_line import settings_of

if TYPE_CHECKING:
    import asyncpg

    from sentinel.manifests import DatasetManifest


def dataset(
    context: typer.Context,
    served_model: Annotated[
        str,
        typer.Option("--served-model", "-m", help="Whose pairs; with --from-jsonl the name on the manifest."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data set; made where missing.")],
    from_jsonl: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pairs of a file instead: prompt, chosen, rejected in each line."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw; the same seed gives the same files.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest instead of a summary.")] = False,
) -> None:
    """Make a data set of harmful pairs, benign twins and utility pairs; TRL takes it as it is.

    The base is asked for needless refusals on the evaluation server. Nothing that an evaluation set asks gets in,
    and personal data is replaced by pseudonyms.

    Example: sentinel train dataset --served-model main --out runs/data
    """
    from trainer.commands.progress import Bar
    from trainer.evaluation.sets import load_sets

    settings = settings_of(context)
    prompts = [prompt for loaded in load_sets(settings) for prompt in loaded.prompts]
    with Bar("data set") as bar:
        if from_jsonl is not None:
            from trainer.dataset.imported import import_dataset

            made = import_dataset(
                from_jsonl,
                served_model=served_model,
                settings=settings.dataset,
                folder=out,
                evaluation_prompts=prompts,
                seed=seed,
                report=bar.report,
            )
        else:
            made = _from_store(context, served_model, out, prompts, seed, bar.report)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    _show(made, out)


def _from_store(
    context: typer.Context, served_model: str, out: Path, prompts: list[str], seed: int, report: Any
) -> DatasetManifest:
    from sentinel.clock import SystemClock
    from trainer.connections import with_database
    from trainer.dataset.building import build_dataset
    from trainer.dataset.judging import data_judge
    from trainer.evaluation.server import make_asker
    from trainer.served import known_names

    settings, clock = settings_of(context), SystemClock()
    (name,) = known_names(settings, served_model)

    async def work(conn: asyncpg.Connection[Any]) -> DatasetManifest:
        async with make_asker(settings, name) as asker, data_judge(settings, clock) as judge:
            return await build_dataset(
                conn,
                served_model=name,
                settings=settings,
                folder=out,
                evaluation_prompts=prompts,
                ask=asker.ask_base,
                seed=seed,
                report=report,
                judge=judge,
                clock=clock,
            )

    return with_database(settings, work)


def _show(made: DatasetManifest, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"

    table = Table(show_header=False, box=None)
    table.add_row("data set", f"{out}, sha256 {made.content_sha256[:12]}, seed {made.seed}")
    table.add_row("rows", f"{made.rows}: {listed(made.rows_by_kind)}")
    table.add_row("families", listed(made.rows_by_family))
    table.add_row("split", f"{listed(made.splits)}; {made.groups} groups of near prompts")
    table.add_row("dropped", f"{listed(made.dropped_by_reason)}; of {made.collected} pairs read")
    table.add_row("redacted", listed(made.redactions) if made.redacted else "NOT redacted")
    if made.probe is not None:
        table.add_row("shortcut", _probed(made))
    Console().print(table)


def _probed(made: DatasetManifest) -> str:
    probe = made.probe
    if probe is None or probe.auroc is None:
        return "not measured: too few prompts"
    alone = ", ".join(f"{name} {value:.2f}" for name, value in probe.by_features.items())
    text = f"surface features alone tell the sides apart with AUROC {probe.auroc:.2f} ({alone})"
    if probe.warning:
        text += f"; WARNING: at least {probe.warn_at}: more benign twins make the shortcut useless"
    return text
