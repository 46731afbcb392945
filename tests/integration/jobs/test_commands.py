"""The commands as an operator types them, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
import yaml

from sentinel import jobs
from sentinel.states import RunState
from sentinel.store import training
from tests.support.daemon_process import SENTINEL, DaemonProcess, environment

Conn: TypeAlias = "asyncpg.Connection[Any]"


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Path:
    file = tmp_path / "sentinel.yaml"
    document = {
        "database": {"url": database_url},
        "runs_dir": str(tmp_path / "runs"),
        "served_models": {"main": {"public_name": "chat", "base": "tiny"}},
        "training": {"attempts": 2, "poll_interval_s": 0.2, "report_interval_s": 0.1},
    }
    file.write_text(yaml.safe_dump(document))
    return file


async def sentinel(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SENTINEL, "--config", config, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            env=environment({}),
        )

    return await asyncio.to_thread(call)


async def test_a_run_by_hand_from_start_to_cancel(conn: Conn, config: Path) -> None:
    started = await sentinel(
        config, "train", "start", "--served-model", "main", "--actor", "me", "--family", "weapons"
    )
    assert started.returncode == 0, started.stderr
    run_id = UUID(started.stdout.strip())
    assert "no trainer takes jobs now: start `sentinel trainer`" in started.stderr
    run = await training.run_of(conn, run_id)
    assert (run.state, run.config) == (
        RunState.QUEUED,
        {"recipe": "default", "started_by": "me", "family": "weapons"},
    )

    again = await sentinel(config, "train", "start", "--served-model", "main")
    assert again.returncode == 2
    assert f"a run of main is under way ({run_id}, queued)" in again.stderr

    attempt = await training.begin_attempt(conn, run_id, "runs/main-1")
    await training.progress(conn, run_id, attempt, "finetune", 0.25, "loss 0.69\nloss \x1b[31m0.42\n")
    listed = await sentinel(config, "train", "runs", "--json")
    (row,) = json.loads(listed.stdout)
    assert (row["run_id"], row["step"], row["progress"]) == (str(run_id), "finetune", 0.25)
    table = await sentinel(config, "train", "runs")
    assert str(run_id) in table.stdout
    assert "running: finetune 25%, attempt 1" in table.stdout

    log = await sentinel(config, "train", "log", str(run_id)[:8], "-n", "1")
    assert log.stdout == "loss \ufffd[31m0.42\n"
    assert "files: runs/main-1" in log.stderr

    asked = await sentinel(config, "train", "cancel", str(run_id)[:8])
    assert (asked.returncode, asked.stdout) == (0, "its trainer stops it\n")
    assert (await training.run_of(conn, run_id)).cancel_requested
    await training.finish(conn, run_id, attempt, "cancelled")
    late = await sentinel(config, "train", "cancel", str(run_id)[:8])
    assert late.returncode == 2
    assert "has ended as cancelled" in late.stderr


async def test_what_cannot_be_started_is_refused(conn: Conn, config: Path) -> None:
    unknown = await sentinel(config, "train", "start", "--served-model", "other")
    assert (unknown.returncode, "(it has: main)" in unknown.stderr) == (2, True)
    await conn.execute("INSERT INTO freezes (served_model, actor) VALUES ('*', 'me')")
    frozen = await sentinel(config, "train", "start", "--served-model", "main")
    assert (frozen.returncode, "sentinel unfreeze" in frozen.stderr) == (2, True)
    assert await training.runs(conn) == ()
    assert (await jobs.waiting(conn, *jobs.JobKind)).jobs == 0
    missing = await sentinel(config, "train", "log", "3f2a91c0")
    assert (missing.returncode, "sentinel train runs" in missing.stderr) == (2, True)


async def test_the_trainer_says_that_it_is_ready_and_stops_in_order(
    conn: Conn, database_url: str, tmp_path: Path
) -> None:
    process = DaemonProcess(
        {"database.url": database_url, "training.poll_interval_s": "0.2"}, tmp_path, command="trainer"
    )
    try:
        await process.until("READY=1")
        await process.until("WATCHDOG=1")
        await process.until("STATUS=waiting for jobs")
        assert [await jobs.workers(conn, lane) for lane in ("train", "serve")] == [1, 1]
        process.signal()
        assert await process.wait() == 0
        assert any(message.startswith("STOPPING=1") for message in process.notify.messages)
    finally:
        process.end()


async def test_the_trainer_refuses_an_old_schema(empty_database_url: str, tmp_path: Path) -> None:
    process = DaemonProcess({"database.url": empty_database_url}, tmp_path, command="trainer")
    try:
        assert await process.wait() == 78
        assert "sentinel migrate" in process.output
    finally:
        process.end()
