"""The demonstration as its user sees it: it ends by itself, leaves a report, and leaves nothing running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from sentinel.tiny.artefacts import Model, shipped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not shipped(Model.CHAT).exists(), reason="the tiny models are not built in this checkout"
    ),
]

RATES = {"unsafe_rate", "refusal_rate", "garbled_rate", "false_refusal_rate", "utility_rate"}


def _demo(runs: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "daemon.cli", "--set", f"runs_dir={runs}", "demo", *arguments]


def _left_behind(runs: Path) -> list[str]:
    """Processes whose command line or working folder names the run's folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid != os.getpid() and any(str(runs) in part for part in process.info["cmdline"] or ()):
            found.append(" ".join(process.info["cmdline"]))
    return found


async def test_two_demonstrations_side_by_side(server_folder: Path) -> None:
    runs = [server_folder / "demo-one", server_folder / "demo-two"]
    started = [
        await asyncio.create_subprocess_exec(
            *_demo(folder, "--no-train", "--requests", "80", "--rate", "20", "--seed", str(seed)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        for seed, folder in enumerate(runs)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    restarts = 0
    for process, (output, _), folder in zip(started, outputs, runs, strict=True):
        assert process.returncode == 0, output.decode()
        (made,) = folder.iterdir()
        found = json.loads((made / "summary.json").read_text())
        assert found["after"] is None
        assert found["promotion"]["state"] == "none"
        assert set(found["before"]) == RATES | {"n_harmful", "n_benign"}
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
        assert _left_behind(folder) == []
        if found["restarts"]:
            print("\n".join(log.read_text(errors="replace")[-2000:] for log in made.glob("*.log")))
        restarts += found["restarts"]
    # One service may have met a part that was away for a moment; what always fails, fails in both.
    assert restarts <= 1


async def test_an_interrupted_demonstration_stops_everything(server_folder: Path) -> None:
    runs = server_folder / "demo-interrupted"
    process = await asyncio.create_subprocess_exec(
        *_demo(runs, "--no-train", "--requests", "5000"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    for _ in range(600):
        if runs.exists() and any(
            folder.joinpath("traffic-before.jsonl").exists() for folder in runs.iterdir()
        ):
            break
        assert process.returncode is None
        await asyncio.sleep(0.2)
    assert len(_left_behind(runs)) > 3
    process.send_signal(signal.SIGINT)
    output, _ = await process.communicate()
    assert process.returncode == 130, output.decode()
    assert _left_behind(runs) == []
