"""Runs and jobs: one at a time, written by the newest attempt alone, enqueued with what they belong to."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from sentinel import jobs
from sentinel.errors import CommandError, PoisonError, StaleAttemptError
from sentinel.jobs import JobKind, JobPayload
from sentinel.states import RunState
from sentinel.store import training
from tests.support.waiting import wait_until

Conn: TypeAlias = "asyncpg.Connection[Any]"


async def test_one_run_of_a_served_model_at_a_time(conn: Conn, other: Conn) -> None:
    first, second = uuid4(), uuid4()
    created = await asyncio.gather(
        training.create_run(conn, first, "main"), training.create_run(other, second, "main")
    )
    assert sorted(created) == [False, True]
    assert await training.create_run(conn, uuid4(), "second model")
    (run,) = await training.runs(conn, served_model="main")
    assert (run.state, run.attempt, run.kind) == (RunState.QUEUED, 0, "train")


async def test_a_run_from_beginning_to_end(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main", "train", {"recipe": "tiny", "actor": "me"})
    attempt = await training.begin_attempt(conn, run_id, "runs/main-1")
    assert not await training.progress(conn, run_id, attempt, "finetune", 0.5, "step 5 of 10")
    await training.set_hypothesis(conn, run_id, attempt, {"primary": "safety"})
    run = await training.run_of(conn, run_id, log=True)
    assert (run.state, run.step, run.progress, run.log_tail) == (
        RunState.RUNNING, "finetune", 0.5, "step 5 of 10",
    )  # fmt: skip
    assert run.done == pytest.approx(1.5 / 4)
    assert run.config == {"recipe": "tiny", "actor": "me"}
    assert run.hypothesis == {"primary": "safety"}
    await training.finish(conn, run_id, attempt, RunState.SUCCEEDED)
    ended = await training.run_of(conn, run_id)
    assert (ended.state, ended.done, ended.final) == (RunState.SUCCEEDED, 1.0, True)
    assert ended.finished_at is not None
    assert ended.finished_at >= (ended.started_at or ended.finished_at)
    assert await training.create_run(conn, uuid4(), "main"), "the place is free again"


async def test_an_older_attempt_is_refused_whatever_it_writes(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    stale = await training.begin_attempt(conn, run_id)
    current = await training.begin_attempt(conn, run_id)
    assert (stale, current) == (1, 2)
    writes = (
        training.progress(conn, run_id, stale, "gate", 1.0),
        training.heartbeat(conn, run_id, stale, "late"),
        training.set_dataset(conn, run_id, stale, uuid4()),
        training.set_hypothesis(conn, run_id, stale, {}),
        training.set_directory(conn, run_id, stale, "elsewhere"),
        training.note_interruption(conn, run_id, stale),
        training.finish(conn, run_id, stale, RunState.FAILED, "late"),
    )
    for write in writes:
        with pytest.raises(StaleAttemptError, match="attempt 2: attempt 1 may not write"):
            await write
    run = await training.run_of(conn, run_id)
    assert (run.state, run.step, run.directory) == (RunState.RUNNING, "", "")
    await training.finish(conn, run_id, current, "failed", "out of memory\x00")
    with pytest.raises(StaleAttemptError, match="is failed"):
        await training.progress(conn, run_id, current, "gate", 1.0)
    with pytest.raises(StaleAttemptError, match="has ended as failed"):
        await training.begin_attempt(conn, run_id)
    assert (await training.run_of(conn, run_id)).error == "out of memory\ufffd"


async def test_a_run_ends_in_an_end(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    attempt = await training.begin_attempt(conn, run_id)
    with pytest.raises(ValueError, match="cannot end as running"):
        await training.finish(conn, run_id, attempt, "running")


async def test_cancelling(conn: Conn) -> None:
    queued, running = uuid4(), uuid4()
    await training.create_run(conn, queued, "main")
    assert await training.request_cancel(conn, queued) is RunState.CANCELLED
    await training.create_run(conn, running, "main")
    attempt = await training.begin_attempt(conn, running)
    assert await training.request_cancel(conn, running) is RunState.RUNNING
    assert await training.heartbeat(conn, running, attempt), "the process is told"
    await training.finish(conn, running, attempt, RunState.CANCELLED)
    with pytest.raises(CommandError, match="has ended as cancelled"):
        await training.request_cancel(conn, running)
    with pytest.raises(CommandError, match="there is no run"):
        await training.request_cancel(conn, uuid4())


async def test_a_run_that_nobody_works_on_is_cancelled_at_once(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    attempt = await training.begin_attempt(conn, run_id)
    await conn.execute("UPDATE training_runs SET heartbeat_at = now() - interval '11 minutes'")
    assert await training.request_cancel(conn, run_id) is RunState.CANCELLED
    with pytest.raises(StaleAttemptError, match="is cancelled"):
        await training.heartbeat(conn, run_id, attempt)


async def test_a_run_is_found_by_the_beginning_of_its_id(conn: Conn) -> None:
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    assert (await training.find_run(conn, str(run_id)[:8].upper())).run_id == run_id
    with pytest.raises(CommandError, match="no run has an id"):
        await training.find_run(conn, "zzz")
    await training.create_run(conn, uuid4(), "second model")
    with pytest.raises(CommandError, match="several runs"):
        await training.find_run(conn, "")


async def test_a_freeze_is_one_models_or_everybodys(conn: Conn) -> None:
    assert await training.frozen(conn, "main") is None
    await conn.execute("INSERT INTO freezes (served_model, actor, reason) VALUES ('main', 'me', 'audit')")
    assert "main is frozen by me" in (await training.frozen(conn, "main") or "")
    assert await training.frozen(conn, "second model") is None
    await conn.execute("INSERT INTO freezes (served_model, actor) VALUES ('*', 'me')")
    assert "all served models are frozen" in (await training.frozen(conn, "second model") or "")


def payload(kind: JobKind = JobKind.TRAIN, served_model: str = "main") -> JobPayload:
    return JobPayload(kind=kind, run_id=uuid4(), served_model=served_model)


async def test_a_job_appears_with_its_transaction_or_not_at_all(conn: Conn, other: Conn) -> None:
    transaction = conn.transaction()
    await transaction.start()
    assert await jobs.enqueue(conn, payload())
    assert (await jobs.waiting(other, JobKind.TRAIN)).jobs == 0
    await transaction.rollback()
    assert (await jobs.waiting(other, JobKind.TRAIN)).jobs == 0
    async with conn.transaction():
        await jobs.enqueue(conn, payload())
    assert (await jobs.waiting(other, JobKind.TRAIN)).jobs == 1


async def test_one_job_of_a_kind_and_served_model(conn: Conn) -> None:
    async with conn.transaction():
        assert await jobs.enqueue(conn, payload())
        assert not await jobs.enqueue(conn, payload())
        assert await jobs.enqueue(conn, payload(JobKind.PROMOTE)), "the transaction goes on"
        assert await jobs.enqueue(conn, payload(served_model="second model"))
    assert (await jobs.waiting(conn, *JobKind)).jobs == 3
    assert await jobs.withdraw(conn, JobKind.TRAIN, "main")
    assert not await jobs.withdraw(conn, JobKind.TRAIN, "main")
    assert await jobs.enqueue(conn, payload())


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b'{"kind":"train"}',
        b'{"schema_version":2,"kind":"train","run_id":"%s","served_model":"main"}'
        % bytes(str(UUID(int=0)), "ascii"),
        b'{"kind":"other","run_id":"%s","served_model":"main"}' % bytes(str(UUID(int=0)), "ascii"),
    ],
)
def test_a_payload_of_another_form_is_refused(raw: bytes | None) -> None:
    with pytest.raises(PoisonError, match="bad_payload"):
        jobs.decode(raw)


async def test_workers_are_counted_while_they_live(conn: Conn, other: Conn) -> None:
    assert await jobs.workers(conn, "serve") == 0
    await jobs.announce_worker(other, "serve")
    assert (await jobs.workers(conn, "serve"), await jobs.workers(conn, "train")) == (1, 0)
    await other.close()

    async def forgotten() -> bool:
        return await jobs.workers(conn, "serve") == 0

    await wait_until(forgotten)
