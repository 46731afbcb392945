"""The JSON object and the table that every benchmark leaves behind."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report import (
    Report,
    current_commit,
    format_figure,
    make_report,
    print_table,
    summarize,
    write_json,
)

VERSIONS = {"faust": {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}}


def report() -> Report:
    return make_report(
        "peers",
        [
            summarize("faust", "throughput", "events/s", [15000.0, 12000.0, 14000.0]),
            summarize("faust", "program_cpu", "us/event", [65.25, 64.0]),
        ],
        VERSIONS,
    )


def test_json_has_the_published_shape(tmp_path: Path) -> None:
    write_json(report(), tmp_path / "made" / "peers.json")
    written = json.loads((tmp_path / "made" / "peers.json").read_text())
    assert list(written) == ["benchmark", "commit", "cores", "python", "versions", "results"]
    assert written["benchmark"] == "peers"
    assert written["cores"] == len(os.sched_getaffinity(0))
    assert written["python"] == platform.python_version()
    assert written["versions"] == VERSIONS
    assert written["results"] == [
        {
            "case": "faust", "metric": "throughput", "unit": "events/s",
            "value": 14000.0, "low": 12000.0, "high": 15000.0, "n": 3,
        },
        {
            "case": "faust", "metric": "program_cpu", "unit": "us/event",
            "value": 64.625, "low": 64.0, "high": 65.25, "n": 2,
        },
    ]  # fmt: skip


def test_a_figure_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples of throughput for quix"):
        summarize("quix", "throughput", "events/s", [])


def test_table_shows_every_result_and_every_version() -> None:
    out = io.StringIO()
    print_table(report(), Console(file=out, width=120))
    text = out.getvalue()
    for word in (
        "peers",
        "throughput",
        "14,000",
        "12,000",
        "15,000",
        "64.6",
        "us/event",
        "faust-streaming 0.15.3",
    ):
        assert word in text
    assert len([line for line in text.splitlines() if line.startswith("│")]) == 2


@pytest.mark.parametrize(
    ("figure", "text"),
    [(54321.7, "54,322"), (100.0, "100"), (12.0, "12.0"), (9.333, "9.33"), (0.0421, "0.0421")],
)
def test_figures_keep_three_digits(figure: float, text: str) -> None:
    assert format_figure(figure) == text


def git(folder: Path, *arguments: str) -> str:
    options = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_says_when_the_checkout_was_edited(tmp_path: Path) -> None:
    assert current_commit(tmp_path) == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert current_commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert current_commit(tmp_path) == f"{head}+changes"
