"""What the doctor says about the trainer's jobs and runs."""

from __future__ import annotations

from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg

from daemon.doctor.report import Level
from daemon.doctor.training import check_jobs, check_runs, needing_trainer
from sentinel import jobs
from sentinel.clock import SystemClock
from sentinel.jobs import JobKind, JobPayload
from sentinel.settings import Settings
from sentinel.store import training

Conn: TypeAlias = "asyncpg.Connection[Any]"
CLOCK = SystemClock()


def payload(kind: JobKind) -> JobPayload:
    return JobPayload(kind=kind, run_id=uuid4(), served_model="main")


async def levels(conn: Conn) -> list[tuple[Level, str]]:
    return [(found.level, found.message) for found in await check_jobs(conn, CLOCK)]


async def test_nothing_waits(conn: Conn) -> None:
    ((level, message),) = await levels(conn)
    assert level is Level.OK
    assert "0 for training, 0 for promotions" in message


async def test_nobody_would_take_a_promotion(conn: Conn, other: Conn) -> None:
    served = {
        "chat": {"public_name": "chat", "base": "b", "replicas": ["http://127.0.0.1:9"]},
        "watched": {"public_name": "watched", "base": "b"},
    }
    needing = needing_trainer(Settings.model_validate({"served_models": served}))
    assert needing == ["chat"]
    (found,) = await check_jobs(conn, CLOCK, needing)
    assert found.level is Level.WARN
    assert "no trainer takes promotions or rollbacks, of chat" in found.message
    await jobs.announce_worker(other, "serve")
    assert [one.level for one in await check_jobs(conn, CLOCK, needing)] == [Level.OK]
    off = {"served_models": served, "triggers": {"enabled": False}}
    assert needing_trainer(Settings.model_validate(off)) == []


async def test_a_promotion_that_nobody_takes(conn: Conn, other: Conn) -> None:
    await jobs.enqueue(conn, payload(JobKind.PROMOTE))
    ((level, message),) = await levels(conn)
    assert (level, "no trainer takes such jobs" in message) == (Level.FAIL, True)
    await jobs.announce_worker(other, "serve")
    assert (await levels(conn))[0][0] is Level.OK
    await conn.execute("UPDATE pgqueuer.pgqueuer SET created = now() - interval '2 minutes'")
    ((level, message),) = await levels(conn)
    assert (level, "the oldest for 12" in message) == (Level.FAIL, True)


async def test_a_training_job_that_nobody_takes_is_a_warning(conn: Conn) -> None:
    await jobs.enqueue(conn, payload(JobKind.TRAIN))
    assert [level for level, _ in await levels(conn)] == [Level.WARN]


async def test_a_job_that_is_held(conn: Conn) -> None:
    await jobs.enqueue(conn, payload(JobKind.ROLLBACK))
    await conn.execute("UPDATE pgqueuer.pgqueuer SET status = 'failed'")
    ((level, message),) = await levels(conn)
    assert (level, message.startswith("1 job(s) ended in a fault")) == (Level.FAIL, True)


async def test_a_run_that_is_left_alone(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    await training.begin_attempt(conn, run_id)
    assert [found.level for found in await check_runs(conn, CLOCK, 60)] == [Level.OK]
    await conn.execute("UPDATE training_runs SET heartbeat_at = now() - interval '4 minutes'")
    (found,) = await check_runs(conn, CLOCK, 60)
    assert found.level is Level.WARN
    assert str(run_id) in found.message
    assert str(run_id)[:8] in found.remedy
