"""A worker as a process of its own, over scripted runs: ``worker_process.py DATABASE_URL RUNS_DIR``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.integration.jobs.workers import make_worker
from trainer.worker import handle_signals


async def main(url: str, runs_dir: Path) -> None:
    worker = make_worker(url, runs_dir)
    handle_signals(worker)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
