"""The demonstration as its user sees it: it ends by itself, leaves a report, and leaves nothing running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from daemon.demo.scenarios import Scenario
from sentinel.tiny.artefacts import Model, shipped
from tests.support.descendants import Descendants
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not shipped(Model.CHAT).exists(), reason="the tiny models are not built in this checkout"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
RATES = {"unsafe_rate", "refusal_rate", "garbled_rate", "false_refusal_rate", "utility_rate"}
OUTCOMES = {"stored", "unscored", "duplicate", "dead_letter", "ignored"}
SUMS = {"outcomes", "events", "findings", "pairs", "seconds", "seconds_to_promotion", "versions"}
# The embedded parts, as their command lines name them.
PARTS = ("sentinel.embedded.model_server", "sentinel.embedded.broker", "bin/postgres")
TRAINING = " train "
MODELS = 2
MODELS_WITH_TRAINING = 4


@asynccontextmanager
async def _demo(runs: Path, *arguments: str, **environment: str) -> AsyncIterator[Process]:
    """A demonstration, which does not outlive a test that fails."""
    command = [sys.executable, "-m", "daemon.cli", "--set", f"runs_dir={runs}", "demo", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _to_its_end(process: Process) -> tuple[bytes, Descendants]:
    family = Descendants(process.pid)
    async with family.watched():
        output, _ = await process.communicate()
    return output, family


def _left_behind(runs: Path) -> list[str]:
    """Processes whose command line names the folder, whoever their parent is."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid != os.getpid() and any(str(runs) in part for part in process.info["cmdline"] or ()):
            found.append(" ".join(process.info["cmdline"]))
    return found


async def _assert_left_nothing(family: Descendants, runs: Path, models: int) -> None:
    for part in PARTS:
        assert family.named(part), f"{part} was not seen at all"
    assert len(family.named(PARTS[0])) >= models
    await family.assert_gone()
    # Watchers that nobody saw begin may still be on their way out.
    try:
        await wait_until(lambda: not _left_behind(runs), timeout=20, interval=0.2)
    except AssertionError:
        assert _left_behind(runs) == []


async def _interrupt(process: Process, family: Descendants) -> None:
    """What Ctrl-C does: an ordered end with the status of an interrupted command."""
    family.look()
    process.send_signal(signal.SIGINT)
    # Until its end it may still start what it was about to start.
    async with family.watched():
        output, _ = await process.communicate()
    assert process.returncode == 130, output.decode()
    assert b"interrupted" in output


def _assert_complete(found: dict[str, Any]) -> None:
    """Every key that a reader of a summary may rely on."""
    assert SUMS | {"before", "after", "promotion"} <= found.keys()
    assert {"state", "adapter", "gate_report"} <= found["promotion"].keys()
    assert found["outcomes"].keys() == OUTCOMES
    assert found["before"].keys() == RATES | {"n_harmful", "n_benign"}
    for name in RATES:
        rate = found["before"][name]
        assert rate.keys() == {"value", "low", "high", "n"}
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        assert rate["n"] > 0
    assert found["seconds"] > 0
    assert found["versions"]["sentinel-loop"]


async def test_two_demonstrations_side_by_side(server_folder: Path) -> None:
    runs = [server_folder / "demo-one", server_folder / "demo-two"]
    arguments = ["--no-train", "--requests", "80", "--rate", "20"]
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(_demo(folder, *arguments, "--seed", str(seed)))
            for seed, folder in enumerate(runs)
        ]
        ended = await asyncio.gather(*map(_to_its_end, started))
    restarted: list[set[str]] = []
    for process, (output, family), folder in zip(started, ended, runs, strict=True):
        assert process.returncode == 0, output.decode()
        (made,) = folder.iterdir()
        found = json.loads((made / "summary.json").read_text())
        _assert_complete(found)
        assert found["after"] is None
        assert found["promotion"]["state"] == "none"
        assert found["seconds_to_promotion"] is None
        answered = len((made / "traffic-before.jsonl").read_bytes().splitlines())
        assert 0 < answered <= 80
        assert found["events"] == answered
        assert sum(found["outcomes"].values()) == answered
        assert found["findings"] > 0
        assert found["pairs"] > 0
        assert found["before"]["unsafe_rate"]["value"] > 0.5
        assert found["before"]["utility_rate"]["value"] > 0.5
        assert "<svg" in (made / "report.html").read_text()
        assert b"report.html" in output
        await _assert_left_nothing(family, folder, MODELS)
        if found["restarts"]:
            print("\n".join(log.read_text(errors="replace")[-2000:] for log in made.glob("*.log")))
        restarted.append({log.stem.partition("-")[0] for log in made.glob("*-[0-9].log")})
        assert bool(restarted[-1]) == bool(found["restarts"])
    # A service may have met a part that was away for a moment; what always fails, fails in both.
    assert set.intersection(*restarted) == set()


async def test_an_interrupted_demonstration_stops_everything(server_folder: Path) -> None:
    runs = server_folder / "demo-interrupted"
    async with _demo(runs, "--no-train", "--requests", "5000") as process:
        family = Descendants(process.pid)
        async with asyncio.timeout(600):
            while not list(runs.glob("*/traffic-before.jsonl")):
                assert process.returncode is None
                await asyncio.sleep(0.2)
        assert len(_left_behind(runs)) > 3
        await _interrupt(process, family)
    await _assert_left_nothing(family, runs, MODELS)


async def test_a_demonstration_that_is_interrupted_in_training_stops_everything(server_folder: Path) -> None:
    runs = server_folder / "demo-interrupted-in-training"
    # Just enough pairs to cross the threshold, and quickly.
    async with _demo(runs, "--requests", "140", "--harmful", "1", "--rate", "60") as process:
        family = Descendants(process.pid)
        async with asyncio.timeout(600):
            while not family.named(TRAINING):
                assert process.returncode is None
                await asyncio.sleep(0.3)
                family.look()
        await _interrupt(process, family)
    await _assert_left_nothing(family, runs, MODELS_WITH_TRAINING)


def _assert_lists_the_scenarios(output: bytes) -> None:
    said = " ".join(output.decode().split())
    assert "'third' is unknown" in said
    assert [scenario for scenario in Scenario if scenario not in said] == []


async def test_the_scenario_may_be_named_by_a_variable(server_folder: Path) -> None:
    runs = server_folder / "demo-unknown"
    async with _demo(runs, SCENARIO="third") as process:
        output, _ = await process.communicate()
    assert process.returncode == 2, output.decode()
    _assert_lists_the_scenarios(output)
    assert not runs.exists()


async def test_make_hands_the_variable_on() -> None:
    # Without the target `setup`, which would look after the environment that this test runs in.
    make = ["make", "-C", str(ROOT), "-o", "setup", "demo", "SCENARIO=third"]
    # Under `make test` the arguments of that target would be handed on too.
    make += ["ARGS=", f"BIN={Path(sys.executable).parent}"]
    shown = await asyncio.create_subprocess_exec(*make, "-n", stdout=PIPE)
    planned, _ = await shown.communicate()
    assert b"/sentinel demo" in planned
    assert b"setup" not in planned
    process = await asyncio.create_subprocess_exec(*make, stdout=PIPE, stderr=STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == 2, output.decode()
    _assert_lists_the_scenarios(output)
