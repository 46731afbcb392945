"""``sentinel traffic``: simulated users in front of a model, their exchanges as events on the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import http_address, settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from producers.traffic.prompts import Prompt
    from producers.traffic.publishing import Publisher
    from producers.traffic.simulator import Counts


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
    requests: Annotated[int | None, typer.Option(min=1, help="Requests to send at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrival times; event ids are always random.")] = 0,
    harmful: Annotated[float, typer.Option(min=0, max=1, help="Share of harmful built-in prompts.")] = 0.3,
    families: Annotated[
        str, typer.Option(metavar="NAMES", help="Harmful built-in families, comma-separated; default: all.")
    ] = "",
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|hub:OWNER/NAME",
            help="JSONL, JSON, CSV, TSV, Parquet, or a set of the Hub, instead of the built-in ones.",
        ),
    ] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests under way at most.")] = 64,
    record_format: Annotated[
        str, typer.Option("--format", help="Any that the daemon reads; a wrong one lists them.")
    ] = "native",
    compress: Annotated[bool, typer.Option("--gzip", help="Compress each record, as exporters do.")] = False,
    per_record: Annotated[
        int, typer.Option(min=1, help="Exchanges of one record, in formats that hold several.")
    ] = 1,
    publish: Annotated[
        bool, typer.Option(help="--no-publish: the route publishes the events itself.")
    ] = True,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line for each answer there.")
    ] = None,
) -> None:
    """Send prompts at a rate and publish each exchange as an event.

    Ctrl-C ends the sending, waits for the answers under way and prints the counts; a second one does not wait.
    Prompts come from the built-in families, or from files and Hub sets in the shapes of WildGuardMix,
    WildJailbreak, XSTest, HarmBench and others: exact and near duplicates are removed and counted, the rest is
    shuffled by the seed. hub:OWNER/NAME@REVISION:PATTERN chooses a revision and files.

    Examples:
      ·  sentinel traffic --model-url http://127.0.0.1:8004 --duration 60
      ·  sentinel traffic --prompts xstest.csv --rate 5 --requests 450
      ·  sentinel traffic --prompts hub:allenai/wildguardmix:test/* --format otlp-span --per-record 20
    """
    settings = settings_of(context)
    from producers.traffic.formats import FORMATS
    from producers.traffic.publishing import Publisher
    from sentinel import logs

    # aiokafka tells each failed connection in its own words, before ours.
    logs.silence_libraries()
    if record_format not in FORMATS:
        raise CommandError(f"--format {record_format!r} is unknown; one of {', '.join(FORMATS)}")
    if per_record > 1 and not FORMATS[record_format].several:
        several = ", ".join(name for name, held in FORMATS.items() if held.several)
        raise CommandError(
            f"--per-record: a record of --format {record_format} holds one; several: {several}"
        )
    for option, value in (("--rate", rate), ("--duration", duration)):
        if value is not None and value <= 0:
            raise CommandError(f"{option} must be positive, not {value:g}")
    served = next(iter(settings.served_models.values()), None)
    name = model or (served.public_name if served else "")
    if not name:
        raise CommandError("name the model to ask with --model, or configure served_models")
    address = model_url or f"http://127.0.0.1:{settings.route.port}"
    url = http_address("--model-url", address).removesuffix("/v1")
    source = _source(prompts, seed, harmful, families)
    counts = asyncio.run(
        _run(
            source,
            url=url,
            model=name,
            rate=rate,
            duration=duration,
            requests=requests,
            seed=seed,
            max_in_flight=max_in_flight,
            publisher=Publisher(
                settings.kafka,
                FORMATS[record_format] if publish else None,
                log,
                per_record=per_record,
                compress=compress,
            ),
        )
    )
    typer.echo(
        f"{counts.arrived} arrived, {counts.answered} answered, {counts.failed} failed,"
        f" {counts.dropped} found no place"
    )
    if counts.failed:
        by_number = sorted(counts.failures.items(), key=lambda item: (-item[1], item[0]))
        typer.echo("failed: " + ", ".join(f"{reason} ({times})" for reason, times in by_number))
    if counts.arrived and not counts.answered:
        raise CommandError(
            f"nothing was answered: is there an OpenAI-compatible server at {url} that serves {name!r}?"
        )


def _source(sources: list[str] | None, seed: int, harmful: float, families: str) -> Iterator[Prompt]:
    import random

    from producers.traffic.prompts import built_in, endless, load

    rng = random.Random(f"{seed} prompts")
    if not sources:
        chosen = tuple(name.strip() for name in families.split(",") if name.strip())
        return built_in(rng, harmful, chosen) if chosen else built_in(rng, harmful)
    loaded = load(sources, rng)
    typer.echo(f"{len(loaded.prompts)} prompts; left out: {dict(loaded.left_out) or 'none'}", err=True)
    return endless(loaded.prompts, rng)


async def _run(
    source: Iterator[Prompt],
    *,
    url: str,
    model: str,
    rate: float,
    duration: float | None,
    requests: int | None,
    seed: int,
    max_in_flight: int,
    publisher: Publisher,
) -> Counts:
    import random

    from producers.traffic.arrivals import gaps
    from producers.traffic.simulator import Simulator
    from sentinel.clock import SystemClock

    stop = asyncio.Event()
    async with publisher:
        simulator = Simulator(
            model_url=url,
            model=model,
            prompts=source,
            gaps=gaps(rate, random.Random(f"{seed} arrivals")),
            publish=publisher.publish,
            clock=SystemClock(),
            max_in_flight=max_in_flight,
        )
        running = asyncio.create_task(simulator.run(requests=requests, seconds=duration, stop=stop))
        _stop_on_signals(stop, running)
        showing = asyncio.create_task(_show(simulator.counts, requests))
        try:
            await asyncio.wait({running})
        finally:
            showing.cancel()
        if not running.cancelled():
            running.result()
        return simulator.counts


def _stop_on_signals(stop: asyncio.Event, running: asyncio.Task[Counts]) -> None:
    """The first signal ends the sending, and answers under way are awaited; a second one waits for nobody."""
    import signal

    def signalled() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)


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
