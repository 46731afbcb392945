"""What stands for `sentinel train run`: ``scripted_run.py DATABASE_URL RUNS_DIR RUN_ID``.

It takes the folder and begins an attempt as the real one does. What it does then is in RUNS_DIR/mode:
succeed, hang (until RUNS_DIR/go), deaf (hang, and not even SIGTERM ends it), crash, refuse, mute (exit 0
without a word), early (crash before the attempt begins).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from uuid import UUID

import asyncpg

from sentinel.clock import SystemClock
from sentinel.store import training
from tests.support.waiting import wait_until
from trainer.run_directory import RunDirectory, folder_of


async def main(url: str, runs_dir: Path, run_id: UUID) -> int:
    mode = (runs_dir / "mode").read_text()
    if mode == "early":
        raise RuntimeError("a library is broken")
    conn = await asyncpg.connect(url)
    run = await training.run_of(conn, run_id)
    folder = folder_of(runs_dir, run.served_model, run_id)
    with RunDirectory.hold(folder, SystemClock()) as directory:
        attempt = await training.begin_attempt(conn, run_id, str(folder))
        directory.event("attempt", attempt=attempt)
        done = directory.finished("dataset")
        sys.stderr.write(f"attempt {attempt} {'goes on after the data set' if done else 'begins'}\n")
        directory.finish("dataset", {"rows": 7})
        await training.progress(conn, run_id, attempt, "finetune", 0.5)
        if mode == "crash":
            raise RuntimeError("out of luck")
        if mode == "refuse":
            sys.stderr.write("error: there is no benign side\n")
            return 2
        if mode == "mute":
            return 0
        if mode == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            directory.event("deaf")
        if mode in ("hang", "deaf"):
            await wait_until((runs_dir / "go").exists, timeout=240)
        await training.finish(conn, run_id, attempt, "succeeded")
    await conn.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], Path(sys.argv[2]), UUID(sys.argv[3]))))
