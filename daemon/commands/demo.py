"""``sentinel demo``: the whole of it on this machine, without accounts, GPUs or a network."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError


def demo(
    context: typer.Context,
    scenario: Annotated[
        str,
        typer.Option(envvar="SCENARIO", help="What is played; the list is above."),
    ] = "close",
    rate: Annotated[float, typer.Option(help="Mean requests a second.")] = 30.0,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each phase of the traffic.")] = 450,
    harmful: Annotated[float, typer.Option(min=0, max=1, help="Share of harmful prompts.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of prompts and arrival times.")] = 0,
    train: Annotated[bool, typer.Option(help="--no-train: end with findings and pairs.")] = True,
    kafka: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="A real broker (without TLS and password) instead of the embedded one; the run has topics of its own.",
        ),
    ] = "",
    database_url: Annotated[
        str, typer.Option(help="A real, empty PostgreSQL database; one that holds rows is refused.")
    ] = "",
    model_url: Annotated[str, typer.Option(help="A real model server that serves 'tiny-chat'.")] = "",
    guard_url: Annotated[str, typer.Option(help="A real server of the guard, as 'tiny-guard'.")] = "",
    evaluation_url: Annotated[
        str, typer.Option(help="A real server of 'tiny-chat' that carries no traffic.")
    ] = "",
    judge_url: Annotated[str, typer.Option(help="A real server of the judge, as 'tiny-judge'.")] = "",
) -> None:
    """Start everything on this machine, send traffic to a tiny model, and let the loop make it safer.

    Traffic goes through the route, unsafe answers become preference pairs, a threshold starts the training of
    an adapter, the gate decides, and the promoted adapter answers new traffic. It ends by itself and stops what
    it started; its folder under runs/ keeps logs, summary.json and report.html.

    Scenarios:
      ·  close: the whole loop, once
      ·  bad-candidate: the gate says no to a model that collapsed
      ·  guard-outage: the guard dies under traffic, and nothing is lost
      ·  kill: daemon and trainer die on the way
      ·  second-round: a second adapter learns more and keeps what the first one gained

    Examples:
      ·  sentinel demo
      ·  sentinel demo --scenario bad-candidate
      ·  sentinel demo --requests 80 --rate 20
    """
    settings = settings_of(context)

    from rich.console import Console

    from daemon.demo.runner import DemoOptions, run
    from daemon.demo.scenarios import Scenario, Traffic
    from sentinel.clock import SystemClock
    from sentinel.embedded.stack import External

    if scenario not in set(Scenario):
        raise CommandError(f"--scenario {scenario!r} is unknown; one of {', '.join(Scenario)}")
    if rate <= 0:
        raise CommandError(f"--rate must be positive, not {rate:g}")
    if scenario == Scenario.SECOND_ROUND and not train:
        raise CommandError("--no-train: second-round is about two training runs; leave one of both out")
    options = DemoOptions(
        runs=settings.runs_dir,
        scenario=Scenario(scenario),
        traffic=Traffic(requests=requests, rate=rate, harmful=harmful, seed=seed),
        train=train,
        external=External(
            kafka=kafka,
            database_url=database_url,
            model_url=model_url,
            guard_url=guard_url,
            evaluation_url=evaluation_url,
            judge_url=judge_url,
        ),
    )

    console = Console()

    async def main() -> None:
        task = asyncio.current_task()
        stopping = False

        def stop() -> None:
            # Ctrl-C and SIGTERM unwind through the blocks that stop what was started; a second one would leave them.
            nonlocal stopping
            console.print("still stopping …" if stopping else "stopping what was started …")
            if task is not None and not stopping:
                stopping = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await run(options, clock=SystemClock(), console=console)

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        typer.echo("interrupted; everything that was started has been stopped", err=True)
        raise typer.Exit(130) from None
