"""The command that measures the path really measures it; how fast it is here says nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support.brokers import ApacheKafka

CASES = ("all_tables", "one_table")
"""The slow guard's case is the same daemon for longer; the peers need environments of their own."""

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_short_run_has_every_figure(kafka: ApacheKafka, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.path", "--kafka", kafka.bootstrap, "--only", ",".join(CASES),
        "--events", "400", "--warmup", "100", "--repetitions", "1", "--json", str(file),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    report = json.loads(file.read_text())
    assert report["benchmark"] == "path"
    assert "aiokafka" in report["versions"]["sentinel"]
    found = {(row["case"], row["metric"]): row for row in report["results"]}
    for case in CASES:
        assert found[case, "throughput"]["unit"] == "events/s"
        assert found[case, "throughput"]["value"] > 0
        # So few events may take less than a tick of the kernel's clock.
        for metric in ("program_cpu", "postgres_cpu"):
            assert found[case, metric]["unit"] == "us/event"
            assert found[case, metric]["value"] >= 0
