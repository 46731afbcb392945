"""The trainer with the product's own command for a run, up to where it has nothing to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from sentinel.states import RunState
from sentinel.store import training
from tests.integration.jobs.workers import settings_for
from tests.support.daemon_process import DaemonProcess
from tests.support.waiting import wait_until
from trainer.starting import start_run

Conn: TypeAlias = "asyncpg.Connection[Any]"


async def test_a_run_without_anything_to_train_on_fails_at_once_and_says_why(
    conn: Conn, database_url: str, tmp_path: Path
) -> None:
    run_id = await start_run(conn, settings_for(database_url, tmp_path), "main", actor="test")
    process = DaemonProcess(
        {
            "database.url": database_url,
            "runs_dir": str(tmp_path / "runs"),
            "served_models": '{"main": {"public_name": "chat", "base": "tiny"}}',
            "training.report_interval_s": "0.1",
        },
        tmp_path,
        command="trainer",
    )
    try:

        async def ended() -> training.TrainingRun | None:
            assert process.process.poll() is None, process.output
            run = await training.run_of(conn, run_id, log=True)
            return run if run.final else None

        run = await wait_until(ended, timeout=90)
    finally:
        process.end()
    assert run is not None
    assert (run.state, run.attempt) == (RunState.FAILED, 1), run.log_tail
    assert run.error
    assert "Traceback" not in run.log_tail
    assert Path(run.directory).parent == tmp_path / "runs"
