"""The trainer over a real queue: it brings runs to their end through crashes, stops, cancels and second owners."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson
import psutil
import pytest

from sentinel import jobs
from sentinel.jobs import JobKind
from sentinel.states import RunState
from sentinel.store import training
from tests.integration.jobs.workers import SCRIPTED, WorkerProcess, make_worker, settings_for, working
from tests.support.waiting import wait_until
from trainer.starting import cancel_run, start_run

Conn: TypeAlias = "asyncpg.Connection[Any]"
ENDS = 120.0


class Bench:
    """A database and a folder of scripted runs."""

    def __init__(self, conn: Conn, url: str, runs_dir: Path) -> None:
        self.conn = conn
        self.url = url
        self.runs_dir = runs_dir

    def mode(self, name: str) -> None:
        (self.runs_dir / "mode").write_text(name)

    def go(self) -> None:
        (self.runs_dir / "go").touch()

    async def start(self, served_model: str = "main") -> UUID:
        return await start_run(self.conn, settings_for(self.url, self.runs_dir), served_model, actor="test")

    async def run(self, run_id: UUID) -> training.TrainingRun:
        return await training.run_of(self.conn, run_id, log=True)

    async def until(
        self, run_id: UUID, state: RunState, *, attempt: int | None = None
    ) -> training.TrainingRun:
        async def there() -> training.TrainingRun | None:
            run = await self.run(run_id)
            assert not run.final or run.state is state, (run.state, run.error)
            return run if run.state is state and (attempt is None or run.attempt == attempt) else None

        found = await wait_until(there, timeout=ENDS)
        assert found is not None
        return found

    async def until_trained_on(self, run_id: UUID, attempt: int = 1) -> training.TrainingRun:
        """Wait until the attempt is in the middle of its work."""

        async def there() -> training.TrainingRun | None:
            run = await self.run(run_id)
            return (
                run
                if (run.attempt, run.step) == (attempt, "finetune") and f"attempt {attempt} " in run.log_tail
                else None
            )

        found = await wait_until(there, timeout=ENDS)
        assert found is not None
        return found

    async def queue_is_empty(self) -> None:
        async def empty() -> bool:
            return bool(await self.conn.fetchval("SELECT count(*) = 0 FROM pgqueuer.pgqueuer"))

        await wait_until(empty, timeout=ENDS)

    def attempts(self) -> list[int]:
        """Attempts that began, in their order, as the run's own processes wrote them down."""
        (events,) = self.runs_dir.glob("*/events.jsonl")
        lines = [orjson.loads(line) for line in events.read_text().splitlines()]
        return [line["attempt"] for line in lines if line["action"] == "attempt"]

    def processes(self) -> list[psutil.Process]:
        """Processes that work on a run of this bench now."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except psutil.Error:
                continue
            if SCRIPTED in words and str(self.runs_dir) in words:
                found.append(process)
        return found


@pytest.fixture
def bench(conn: Conn, database_url: str, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(conn, database_url, tmp_path)
    yield bench
    left = bench.processes()
    for process in left:
        process.kill()
    assert left == [], "a run's process was left behind"


async def test_a_run_from_its_start_to_its_end(bench: Bench) -> None:
    bench.mode("succeed")
    async with working(make_worker(bench.url, bench.runs_dir)):
        run = await bench.until(await bench.start(), RunState.SUCCEEDED)
        await bench.queue_is_empty()
    assert (run.attempt, run.done, run.error) == (1, 1.0, "")
    assert run.directory
    assert (Path(run.directory) / "run.log").read_text() == "attempt 1 begins\n"


async def test_a_run_that_fails_is_started_again_and_then_has_failed(bench: Bench) -> None:
    bench.mode("crash")
    async with working(make_worker(bench.url, bench.runs_dir, attempts=3)):
        run = await bench.until(await bench.start(), RunState.FAILED)
        await bench.queue_is_empty()
        assert bench.attempts() == [1, 2, 3]
        assert run.error == "exit status 1: RuntimeError: out of luck"
        assert "attempt 3 goes on after the data set" in run.log_tail
        bench.mode("succeed")
        await bench.until(await bench.start(), RunState.SUCCEEDED)


async def test_a_process_that_never_begins_an_attempt_is_counted_all_the_same(bench: Bench) -> None:
    bench.mode("early")
    async with working(make_worker(bench.url, bench.runs_dir, attempts=2)):
        run = await bench.until(await bench.start(), RunState.FAILED)
    assert (run.attempt, run.error) == (2, "exit status 1: RuntimeError: a library is broken")


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("refuse", "exit status 2: error: there is no benign side"),
        ("mute", "exit status 0: attempt 1 begins"),
    ],
)
async def test_what_cannot_succeed_is_not_repeated(bench: Bench, mode: str, error: str) -> None:
    bench.mode(mode)
    async with working(make_worker(bench.url, bench.runs_dir, attempts=3)):
        run = await bench.until(await bench.start(), RunState.FAILED)
        await bench.queue_is_empty()
    assert (run.attempt, run.error) == (1, error)


async def test_a_killed_trainer_takes_its_run_along_and_the_next_one_resumes(bench: Bench) -> None:
    bench.mode("hang")
    run_id = await bench.start()
    first = WorkerProcess(bench.url, bench.runs_dir)
    try:
        await bench.until_trained_on(run_id)
        assert len(bench.processes()) == 1
        first.kill()
        await wait_until(lambda: not bench.processes(), timeout=60)
        bench.go()
        second = WorkerProcess(bench.url, bench.runs_dir)
        run = await bench.until(run_id, RunState.SUCCEEDED)
        assert second.end() == 0
    finally:
        first.end()
    assert (run.attempt, bench.attempts()) == (2, [1, 2])
    assert "attempt 2 goes on after the data set" in (Path(run.directory) / "run.log").read_text()


async def test_a_run_that_kills_each_trainer_fails(bench: Bench) -> None:
    bench.mode("hang")
    run_id = await bench.start()
    for _ in range(2):
        attempt = await training.begin_attempt(bench.conn, run_id)
    assert attempt == 2
    async with working(make_worker(bench.url, bench.runs_dir, attempts=2)):
        run = await bench.until(run_id, RunState.FAILED)
    assert "2 times without a word" in run.error


async def test_a_stopped_trainer_gives_its_run_back_without_counting_it(bench: Bench) -> None:
    bench.mode("hang")
    run_id = await bench.start()
    for attempt in (1, 2, 3):
        async with working(make_worker(bench.url, bench.runs_dir, attempts=2)):
            await bench.until_trained_on(run_id, attempt)
        assert bench.processes() == []
        assert (await bench.run(run_id)).config["interruptions"] == attempt
    bench.go()
    async with working(make_worker(bench.url, bench.runs_dir, attempts=2)):
        run = await bench.until(run_id, RunState.SUCCEEDED)
    assert run.attempt == 4


@pytest.mark.parametrize("mode", ["hang", "deaf"])
async def test_a_running_run_is_cancelled(bench: Bench, mode: str) -> None:
    bench.mode(mode)
    async with working(make_worker(bench.url, bench.runs_dir)):
        run_id = await bench.start()
        run = await bench.until_trained_on(run_id)
        assert await cancel_run(bench.conn, run, silent_s=60) is RunState.RUNNING
        run = await bench.until(run_id, RunState.CANCELLED)
        assert bench.processes() == []
        await bench.queue_is_empty()
    assert run.attempt == 1


async def test_a_queued_run_is_cancelled_without_a_trainer(bench: Bench) -> None:
    run_id = await bench.start()
    assert await cancel_run(bench.conn, await bench.run(run_id), silent_s=60) is RunState.CANCELLED
    await bench.queue_is_empty()
    assert (await bench.run(run_id)).finished_at is not None
    await bench.start()


async def test_a_frozen_served_model_waits(bench: Bench) -> None:
    bench.mode("succeed")
    run_id = await bench.start()
    await bench.conn.execute("INSERT INTO freezes (served_model, actor) VALUES ('main', 'me')")
    async with working(make_worker(bench.url, bench.runs_dir)):

        async def sent_back() -> bool:
            return bool(
                await bench.conn.fetchval("SELECT count(*) FROM pgqueuer.pgqueuer WHERE attempts = 1")
            )

        await wait_until(sent_back, timeout=ENDS)
    assert (await bench.run(run_id)).state is RunState.QUEUED


async def test_a_job_claimed_twice_runs_once(bench: Bench) -> None:
    """A heartbeat that comes too late lets another trainer claim a job whose run goes on."""
    bench.mode("hang")
    async with working(make_worker(bench.url, bench.runs_dir), make_worker(bench.url, bench.runs_dir)):
        run_id = await bench.start()
        await bench.until_trained_on(run_id)
        owners = set()

        async def claimed_by_both() -> bool:
            await bench.conn.execute(
                "UPDATE pgqueuer.pgqueuer SET heartbeat = now() - interval '1 hour' WHERE status = 'picked'"
            )
            owners.add(await bench.conn.fetchval("SELECT queue_manager_id FROM pgqueuer.pgqueuer"))
            assert len(bench.processes()) == 1
            return len(owners - {None}) == 2

        await wait_until(claimed_by_both, timeout=ENDS)
        bench.go()
        run = await bench.until(run_id, RunState.SUCCEEDED)
        await bench.queue_is_empty()
    assert (run.attempt, bench.attempts()) == (1, [1])


async def test_a_process_by_hand_in_the_folder_is_waited_for(bench: Bench) -> None:
    bench.mode("hang")
    run_id = await bench.start()
    command = make_worker(bench.url, bench.runs_dir).supervision._command(run_id)
    by_hand = await asyncio.create_subprocess_exec(*command)

    async def begun() -> bool:
        return (await bench.run(run_id)).attempt == 1

    await wait_until(begun, timeout=ENDS)
    async with working(make_worker(bench.url, bench.runs_dir)):

        async def sent_back() -> bool:
            return bool(await bench.conn.fetchval("SELECT attempts FROM pgqueuer.pgqueuer"))

        await wait_until(sent_back, timeout=ENDS)
        assert len(bench.processes()) == 1
        bench.go()
        run = await bench.until(run_id, RunState.SUCCEEDED)
        await bench.queue_is_empty()
    assert await by_hand.wait() == 0
    assert run.attempt == 1


async def test_a_run_that_another_host_took_over_is_left_to_it(bench: Bench) -> None:
    bench.mode("deaf")
    async with working(make_worker(bench.url, bench.runs_dir)):
        run_id = await bench.start()
        await bench.until_trained_on(run_id)
        attempt = await training.begin_attempt(bench.conn, run_id)
        await wait_until(lambda: not bench.processes(), timeout=ENDS)
        await bench.queue_is_empty()
    run = await bench.run(run_id)
    assert (run.state, run.attempt, run.error) == (RunState.RUNNING, attempt, "")


async def test_lost_connections_are_made_anew(bench: Bench) -> None:
    bench.mode("hang")
    async with working(make_worker(bench.url, bench.runs_dir)):
        run_id = await bench.start()
        await bench.until_trained_on(run_id)
        await bench.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'sentinel'"
        )
        bench.go()
        # Whether its own connection was cut or not, the scripted run ends and the job with it.
        await bench.until(run_id, RunState.SUCCEEDED)
        await bench.queue_is_empty()
        await bench.until(await bench.start("second"), RunState.SUCCEEDED)

        async def both_lanes() -> bool:
            return [await jobs.workers(bench.conn, lane) for lane in ("train", "serve")] == [1, 1]

        await wait_until(both_lanes, timeout=ENDS)


async def test_the_second_signal_ends_at_once(bench: Bench) -> None:
    bench.mode("deaf")
    run_id = await bench.start()
    worker = WorkerProcess(bench.url, bench.runs_dir)
    run = await bench.until_trained_on(run_id)
    events = Path(run.directory) / "events.jsonl"
    await wait_until(lambda: "deaf" in events.read_text(), timeout=ENDS)
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGINT)
    assert await asyncio.to_thread(worker.end) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    await wait_until(lambda: not bench.processes(), timeout=60)


async def test_a_job_without_a_run_is_dropped(bench: Bench) -> None:
    queue = jobs.queries(bench.conn)
    await queue.enqueue("train", b"not ours")
    await jobs.enqueue(
        bench.conn, jobs.JobPayload(kind=JobKind.TRAIN, run_id=UUID(int=1), served_model="main")
    )
    async with working(make_worker(bench.url, bench.runs_dir)):
        await bench.queue_is_empty()
