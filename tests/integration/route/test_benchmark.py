"""The command that measures the route really measures it; how fast it is here says nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(600)
async def test_a_short_run_has_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.route", "--only", "bare,route,route_publishing",
        "--requests", "5", "--seconds", "0.2", "--repetitions", "1", "--json", str(file),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = {(row["case"], row["metric"]): row for row in json.loads(file.read_text())["results"]}
    for target in ("bare", "route", "route_publishing"):
        for kind in ("chat", "stream"):
            for metric in ("added p50", "added p99"):
                assert found[target, f"{kind}: {metric}"]["unit"] == "ms"
            assert found[target, f"{kind}: throughput"]["value"] > 0
            assert found[target, f"{kind}: CPU of the target"]["unit"] == "us/request"
