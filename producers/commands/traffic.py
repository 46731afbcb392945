"""``sentinel traffic``: simulated users in front of a model, their exchanges as events on the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from producers.traffic.prompts import Prompt
    from producers.traffic.simulator import Counts
    from sentinel.settings import Settings


def traffic(
    context: typer.Context,
    model_url: Annotated[
        str, typer.Option(help="Address of the route or of a model server, without /v1.")
    ] = "",
    model: Annotated[
        str, typer.Option(help="Model name to ask for; default: the first served model's.")
    ] = "",
    rate: Annotated[float, typer.Option(help="Mean arrivals a second; the gaps are exponential.")] = 50.0,
    duration: Annotated[float | None, typer.Option(help="Seconds to run; default: until Ctrl-C.")] = None,
    requests: Annotated[int | None, typer.Option(help="Requests to send at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrival times; event ids are always random.")] = 0,
    harmful: Annotated[float, typer.Option(min=0, max=1, help="Share of harmful built-in prompts.")] = 0.3,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="JSONL, JSON or CSV instead of the built-in ones."),
    ] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests under way at most.")] = 64,
    record_format: Annotated[str, typer.Option("--format", help="native, cloudevents or openai.")] = "native",
    publish: Annotated[
        bool, typer.Option(help="--no-publish: the route publishes the events itself.")
    ] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line for each answer there.")
    ] = None,
) -> None:
    """Send prompts at a rate and publish each exchange as an event.

    Prompts come from the built-in families, or from files in the shapes of WildGuardMix, WildJailbreak, XSTest,
    HarmBench and others: exact and near duplicates are removed and counted, the rest is shuffled by the seed.

    Examples: sentinel traffic --model-url http://127.0.0.1:8004 --duration 60
      ·  sentinel traffic --prompts xstest.csv --rate 5 --requests 450
    """
    settings = settings_of(context)
    from producers.traffic.events import FORMATS

    if record_format not in FORMATS:
        raise CommandError(f"--format {record_format!r} is unknown; one of {', '.join(FORMATS)}")
    if rate <= 0:
        raise CommandError("--rate must be positive")
    served = next(iter(settings.served_models.values()), None)
    name = model or (served.public_name if served else "")
    if not name:
        raise CommandError("name the model to ask with --model, or configure served_models")
    url = model_url or f"http://127.0.0.1:{settings.route.port}"
    source = _source(prompts, seed, harmful)
    counts = asyncio.run(
        _run(
            settings,
            source,
            url=url,
            model=name,
            rate=rate,
            duration=duration,
            requests=requests,
            seed=seed,
            max_in_flight=max_in_flight,
            record_format=record_format if publish else None,
            log=log,
        )
    )
    typer.echo(
        f"{counts.arrived} arrived, {counts.answered} answered, {counts.failed} failed,"
        f" {counts.dropped} found no place"
    )
    if counts.arrived and not counts.answered:
        raise CommandError(
            f"nothing was answered: is there an OpenAI-compatible server at {url} that serves {name!r}?"
        )


def _source(files: list[Path] | None, seed: int, harmful: float) -> Iterator[Prompt]:
    import random

    from producers.traffic.prompts import built_in, endless, load

    rng = random.Random(f"{seed} prompts")
    if not files:
        return built_in(rng, harmful)
    loaded = load(files, rng)
    typer.echo(f"{len(loaded.prompts)} prompts; left out: {dict(loaded.left_out) or 'none'}", err=True)
    return endless(loaded.prompts, rng)


async def _run(
    settings: Settings,
    source: Iterator[Prompt],
    *,
    url: str,
    model: str,
    rate: float,
    duration: float | None,
    requests: int | None,
    seed: int,
    max_in_flight: int,
    record_format: str | None,
    log: Path | None,
) -> Counts:
    import random
    from contextlib import AsyncExitStack

    from producers.traffic.arrivals import gaps
    from producers.traffic.publishing import Publisher
    from producers.traffic.simulator import Simulator
    from sentinel.clock import SystemClock

    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(Publisher(settings.kafka, record_format, log))
        simulator = Simulator(
            model_url=url,
            model=model,
            prompts=source,
            gaps=gaps(rate, random.Random(f"{seed} arrivals")),
            publish=publisher.publish,
            clock=SystemClock(),
            max_in_flight=max_in_flight,
        )
        showing = asyncio.create_task(_show(simulator.counts, requests))
        try:
            return await simulator.run(requests=requests, seconds=duration, stop=stop)
        finally:
            showing.cancel()


def _stop_on_signals(stop: asyncio.Event) -> None:
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


async def _show(counts: Counts, requests: int | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed} answered"),
        BarColumn(),
        TextColumn("{task.fields[more]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("traffic", total=requests, more="")
        while True:
            more = f"{counts.in_flight} under way, {counts.failed} failed, {counts.dropped} found no place"
            bar.update(task, completed=counts.answered, more=more)
            await asyncio.sleep(0.2)
