"""``sentinel tiny``: make the embedded models, and show what they do on requests they never saw."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from sentinel.tiny.artefacts import Evaluation
    from trainer.tiny.together import Moment

app = typer.Typer(
    no_args_is_help=True, help="The embedded chat model and guards: a test article, not a safety claim."
)

_SHORT = {"chat": "tiny-chat", "guard-a": "tiny-guard-a", "guard-b": "tiny-guard-b"}


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the models' folders go.")] = Path(
        "runs/tiny"
    ),
    only: Annotated[str | None, typer.Option(metavar="NAMES", help="Of chat,guard-a,guard-b.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; else the recipe's.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time, one core each.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each model.")] = 1,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--fp32", help="Precision of products; else bfloat16 where avx512_bf16 is there."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Held-out requests drawn of each sort.")] = 150,
) -> None:
    """Make the tiny models from a seed and print their rates on held-out requests.

    A folder of the same name under DIR is replaced. A guard is measured on the chat model's own answers: the one
    made with it, else the one under DIR, else the one that came with the package.

    Example: sentinel tiny build --only chat --out /tmp/tiny
    """
    from sentinel.clock import SystemClock
    from sentinel.tiny.artefacts import MANIFEST, Model, shipped

    wanted = [Model(name) for name in _names(only)]
    building = _building()
    from trainer.tiny import fitting, together

    chat = out / Model.CHAT.value
    if not (chat / MANIFEST).exists():
        chat = shipped(Model.CHAT)
    clock = SystemClock()
    begun = clock.monotonic()
    with _Bars() as bars:
        built = together.build(
            [building.RECIPES[model] for model in wanted],
            out,
            chat=chat,
            clock=clock,
            steps=steps,
            samples=samples,
            threads=threads,
            jobs=jobs,
            bf16=fitting.bf16_is_fast() if bf16 is None else bf16,
            watch=bars.update,
        )
    for one in built:
        _print(one.evaluation)
    for one in built:
        typer.echo(
            f"{one.model.value}: {one.folder} (trained in {one.training_s:.0f} s, measured in {one.measuring_s:.0f} s)"
        )
    typer.echo(f"all together: {clock.monotonic() - begun:.0f} s, at most {jobs} at a time")


@app.command()
def measure(
    folder: Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder of models.")] = Path(
        "runs/tiny"
    ),
    only: Annotated[str | None, typer.Option(metavar="NAMES", help="Of chat,guard-a,guard-b.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Held-out requests drawn of each sort.")] = 150,
) -> None:
    """Measure finished models again and replace their figures: the guards, after a new chat model.

    Example: sentinel tiny measure --in runs/tiny --only guard-a,guard-b
    """
    from sentinel.tiny.artefacts import Model

    models = [Model(name) for name in _names(only)]
    building = _building()
    for model in models:
        chat = folder / Model.CHAT.value
        _print(building.measure(building.RECIPES[model], folder / model.value, chat=chat, samples=samples))


@app.command()
def show(
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="DIR", help="Folder of models; else those of the package.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NAMES", help="Of chat,guard-a,guard-b.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Compare every file with its manifest and print the recorded rates, each with n and a 95 % interval (Wilson).

    Example: sentinel tiny show --only chat
    """
    import msgspec

    from sentinel.tiny.artefacts import Model, evaluation_of, shipped, verify

    found = []
    for model in [Model(name) for name in _names(only)]:
        place = folder / model.value if folder is not None else shipped(model)
        found.append((verify(place), evaluation_of(place)))
    if as_json:
        listed = [{"manifest": manifest, "evaluation": evaluation} for manifest, evaluation in found]
        typer.echo(msgspec.json.format(msgspec.json.encode(listed)).decode())
        return
    for manifest, evaluation in found:
        _print(evaluation)
        typer.echo(
            f"{manifest.model}: {manifest.parameters:,} parameters, seed {manifest.seed}, {manifest.steps} steps, "
            f"{manifest.tokens:,} tokens, version {manifest.code_version}; {len(manifest.files)} files verified\n"
        )


def _building() -> ModuleType:
    """The module that builds, with the libraries that it needs: their absence is said before anything is done."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'sentinel-loop[train]'"
        ) from error
    from trainer.tiny import building

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    del torch
    return building


def _names(only: str | None) -> list[str]:
    if only is None:
        return list(_SHORT.values())
    asked = [name.strip() for name in only.split(",")]
    unknown = [name for name in asked if name not in _SHORT]
    if unknown:
        raise CommandError(f"no tiny model is called {', '.join(unknown)}: {', '.join(_SHORT)}")
    # The chat model first: the guards are measured on it.
    return [full for name, full in _SHORT.items() if name in asked]


def _print(evaluation: Evaluation) -> None:
    import shutil
    import sys

    from rich.console import Console

    width = None if sys.stdout.isatty() else max(170, shutil.get_terminal_size().columns)
    Console(width=width).print(_table(evaluation))


def _table(evaluation: Evaluation) -> Table:
    from rich.table import Table

    table = Table(title=f"{evaluation.model}: held-out rates", title_justify="left")
    columns = dict.fromkeys(name for one in evaluation.measured for name in one.rates)
    for heading in ("condition", "requests", *columns):
        table.add_column(heading)
    for one in evaluation.measured:
        table.add_row(
            one.condition,
            one.requests,
            *(str(one.rates[name]) if name in one.rates else "" for name in columns),
        )
    return table


class _Bars:
    """A progress bar for each model on a terminal; elsewhere ten lines of training, one of each sort of answers."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        # Two models may begin in the same moment.
        self._lock = threading.Lock()

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, moment: Moment) -> None:
        """Show where a model stands; from any thread."""
        title = f"{moment.model.value}: {moment.stage.value}"
        loss = "" if moment.loss is None else f"loss {moment.loss:.3f}"
        with self._lock:
            if title not in self._tasks:
                self._tasks[title] = self._bars.add_task(title, total=moment.total, loss=loss)
        self._bars.update(self._tasks[title], completed=moment.done, loss=loss)
        if not self._bars.disable:
            return
        if moment.total is None:
            typer.echo(f"{moment.model.value}: {moment.done} answers measured", err=True)
        elif moment.done % max(1, moment.total // 10) == 0:
            typer.echo(f"{moment.model.value}: step {moment.done} of {moment.total}, {loss}", err=True)
