"""What commands say to people: help that fits the terminal, with examples; refusals with a remedy; an interruption."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from daemon import cli
from daemon.demo import runner
from daemon.plugins import as_command


def commands(of: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below, with its name as it is written."""
    yield name, of
    if isinstance(of, TyperGroup):
        for inner in of.list_commands(typer.Context(of)):
            yield from commands(of.get_command(typer.Context(of), inner), f"{name} {inner}")


@pytest.mark.parametrize("name", ["route", "traffic", "embedded", "tiny", "demo", "doctor"])
@pytest.mark.parametrize("columns", [60, 100])
def test_paragraphs_fill_the_terminal(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--install-completion" not in said
    assert "--show-completion" not in said
    prose = said.partition("╭")[0].splitlines()
    # A source line that was kept as it is leaves single words at the beginning of a line of its own.
    lonely = [
        (line, after)
        for line, after in pairwise(prose)
        if line.strip() and len(line.split()) == 1 and after.strip() and not after.startswith("   ")
    ]
    assert lonely == []


@pytest.mark.parametrize("name", ["route", "traffic", "embedded", "tiny", "demo"])
def test_every_command_shows_how_it_is_called(name: str) -> None:
    program: Any = typer.main.get_command(cli.app)
    context = typer.Context(program)
    for called, command in commands(program.get_command(context, name), name):
        if not isinstance(command, TyperGroup):
            assert f"sentinel {called}" in (command.help or ""), called


def test_only_lines_that_ran_out_of_room_are_joined() -> None:
    full = "word " * 20 + "end"

    def offered() -> None: ...

    offered.__doc__ = f"First line.\n\n{full}\n{full}\nshort\nkept apart\n\nExamples: {full}\n  ·  another\n"
    command = as_command("offered", offered)
    assert command.help == (
        f"First line.\n\n{full} {full} short\nkept apart\n\nExamples: {full}\n  ·  another"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["demo", "--rate", "0"], 2, "--rate must be positive, not 0"),
        (
            ["demo", "--model-url", "localhost:8001"],
            2,
            "--model-url 'localhost:8001': write http://HOST:PORT",
        ),
        (["demo", "--model-url", "http://"], 2, "--model-url 'http://': write http://HOST:PORT"),
        (["traffic", "--model", "m", "--rate", "-1"], 2, "--rate must be positive, not -1"),
        (["traffic", "--model", "m", "--duration", "0"], 2, "--duration must be positive, not 0"),
        (["traffic", "--model", "m", "--model-url", "localhost:1"], 2, "write http://HOST:PORT"),
        (["traffic", "--model", "m", "--families", "none-such"], 2, "choose of violence, weapons"),
        (["traffic", "--model", "m", "--format", "xml"], 2, "one of native, cloudevents"),
        (["traffic"], 2, "name the model to ask with --model"),
        (["route"], 78, "served_models is empty: name the addresses"),
        (["route", "--output", "x"], 2, "--output goes with --litellm-config"),
    ],
)
def test_what_cannot_be_done_says_what_to_write(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == status
    assert said in capsys.readouterr().err


def test_a_second_interrupt_does_not_end_the_stopping(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = []

    async def run(options: object, *, clock: object, console: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.2)
            stopped.append(True)

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo"])
    assert ended.value.code == 130
    assert stopped == [True]
    said = capsys.readouterr()
    assert said.out.splitlines() == ["stopping what was started …", "still stopping …"]
    assert "interrupted" in said.err
