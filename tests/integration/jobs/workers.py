"""Workers with short times over scripted runs, in this process or as one of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sentinel.jobs import JobKind
from sentinel.settings import Settings
from sentinel.store.engine import libpq_url
from trainer.worker import Change, Worker

ROOT = Path(__file__).resolve().parents[3]
SCRIPTED = "tests.integration.jobs.scripted_run"


def settings_for(url: str, runs_dir: Path, **training: Any) -> Settings:
    """Settings with times fit for a test."""
    return Settings.model_validate(
        {
            "database": {"url": url},
            "runs_dir": runs_dir,
            "served_models": {
                "main": {"public_name": "chat", "base": "tiny"},
                "second": {"public_name": "chat-2", "base": "tiny"},
            },
            "training": {
                "heartbeat_timeout_s": 1.0,
                "poll_interval_s": 0.2,
                "report_interval_s": 0.05,
                "retry_pause_s": 0.0,
                "kill_grace_s": 0.5,
                **training,
            },
        }
    )


def make_worker(
    url: str,
    runs_dir: Path,
    *,
    changes: dict[JobKind, Change] | None = None,
    lanes: tuple[str, ...] = ("train", "serve"),
    **training: Any,
) -> Worker:
    """A worker whose runs are scripted; see scripted_run.py."""
    return Worker(
        settings_for(url, runs_dir, **training),
        lambda run_id: [sys.executable, "-m", SCRIPTED, libpq_url(url), str(runs_dir), str(run_id)],
        changes=changes,
        lanes=lanes,
    )


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Run workers until the block ends, then stop them as SIGTERM does; what they raise is raised here."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        async with asyncio.timeout(90):
            for worker, task in zip(workers, tasks, strict=True):
                started = asyncio.create_task(worker.started.wait())
                await asyncio.wait([started, task], return_when=asyncio.FIRST_COMPLETED)
                started.cancel()
                if task.done():
                    await task
        yield
    finally:
        for worker in workers:
            worker.stop()
        async with asyncio.timeout(90):
            await asyncio.gather(*tasks)


class WorkerProcess:
    """A worker that can be killed."""

    def __init__(self, url: str, runs_dir: Path) -> None:
        self._log = (runs_dir / "worker.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.jobs.worker_process", url, str(runs_dir)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self._process.kill()
        self._process.wait(60)

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(90)
        finally:
            if self._process.poll() is None:
                self.kill()
            self._log.close()
