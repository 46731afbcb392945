"""What the store says about the trainer: jobs that nobody takes, jobs that ended in a fault, runs left alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from daemon.doctor.report import Finding, fail, ok, warn
from sentinel import jobs
from sentinel.clock import Clock
from sentinel.jobs import SERVING_KINDS, JobKind
from sentinel.settings import Settings
from sentinel.states import RunState
from sentinel.store import training

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_PART: Final = "trainer"
OVERDUE: Final = dt.timedelta(minutes=1)
"""A trainer claims a promotion or rollback within seconds."""
LEFT_ALONE_TIMEOUTS: Final = 3


def needing_trainer(settings: Settings) -> list[str]:
    """Served models whose adapters somebody must promote and roll back: they have replicas, and runs start by rules."""
    if not settings.triggers.enabled:
        return []
    return sorted(name for name, served in settings.served_models.items() if served.replicas)


async def check_jobs(conn: Connection, clock: Clock, needing: Sequence[str] = ()) -> list[Finding]:
    """Promotions and rollbacks that wait for a worker, training that does, and jobs that are held.

    Where nothing waits yet and nobody would take it, the served models in ``needing`` are named.
    """
    found: list[Finding] = []
    serving, training_jobs = await jobs.waiting(conn, *SERVING_KINDS), await jobs.waiting(conn, JobKind.TRAIN)
    serve, train = await jobs.workers(conn, "serve"), await jobs.workers(conn, "train")
    start = "start `sentinel trainer`"
    if serving.oldest is not None:
        age = clock.now() - serving.oldest
        if not serve:
            text = f"{serving.jobs} promotion(s) or rollback(s) wait, and no trainer takes such jobs"
            found.append(fail(_PART, text, f"{start} (with --only serve on a host without a GPU)"))
        elif age > OVERDUE:
            text = (
                f"{serving.jobs} promotion(s) or rollback(s) wait, the oldest for {age.total_seconds():.0f} s"
            )
            found.append(fail(_PART, text, "look into the log of `sentinel trainer`; restart it"))
    elif needing and not serve:
        text = f"no trainer takes promotions or rollbacks, of {', '.join(needing)}; none waits yet"
        found.append(warn(_PART, text, f"{start} (with --only serve on a host without a GPU)"))
    if training_jobs.jobs and not train:
        found.append(
            warn(_PART, f"{training_jobs.jobs} training run(s) wait, and no trainer takes them", start)
        )
    if held := await jobs.held(conn):
        text = f"{held} job(s) ended in a fault of this product"
        remedy = "look into the log of `sentinel trainer` for pgqueuer's traceback, and report it"
        found.append(fail(_PART, text, remedy))
    if found:
        return found
    return [ok(_PART, f"{train} for training, {serve} for promotions and rollbacks; no job waits for one")]


async def check_runs(conn: Connection, clock: Clock, heartbeat_timeout_s: float) -> list[Finding]:
    """Runs that are called running and give no sign of life."""
    limit = dt.timedelta(seconds=LEFT_ALONE_TIMEOUTS * heartbeat_timeout_s)
    silent = [
        run
        for run in await training.runs(conn, states=(RunState.RUNNING,))
        if run.heartbeat_at is not None and clock.now() - run.heartbeat_at > limit
    ]
    return [
        warn(
            "training runs",
            f"run {run.run_id} of {run.served_model} has been silent since {run.heartbeat_at:%Y-%m-%d %H:%M}Z",
            f"start `sentinel trainer`, which resumes it, or `sentinel train cancel {str(run.run_id)[:8]}`",
        )
        for run in silent
    ] or [ok("training runs", "none is left alone")]
