"""Promotions and rollbacks as jobs: beside training, repeated after an outage, put down on a stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from sentinel import jobs
from sentinel.errors import CommandError, UnavailableError
from sentinel.jobs import JobKind, JobPayload
from sentinel.settings import Settings
from sentinel.store.admission import PromotionRefusedError, Refusal
from tests.integration.jobs.workers import make_worker, settings_for, working
from tests.support.waiting import wait_until
from trainer import worker as worker_module
from trainer.starting import start_run

Conn: TypeAlias = "asyncpg.Connection[Any]"


def payload(kind: JobKind) -> JobPayload:
    return JobPayload(kind=kind, run_id=uuid4(), served_model="main")


class Changes:
    """What promotes and rolls back here: notes that it was called, and does what it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.called: list[JobPayload] = []
        self.failures = list(failures)
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, settings: Settings, payload: JobPayload) -> None:
        self.called.append(payload)
        if self.failures:
            raise self.failures.pop(0)
        await self.hold.wait()

    def table(self) -> dict[JobKind, worker_module.Change]:
        return {JobKind.PROMOTE: self, JobKind.ROLLBACK: self}


async def queued(conn: Conn) -> list[tuple[str, str]]:
    return [
        (row["entrypoint"], row["status"])
        for row in await conn.fetch("SELECT entrypoint, status FROM pgqueuer.pgqueuer ORDER BY entrypoint")
    ]


async def test_a_promotion_does_not_wait_for_training(conn: Conn, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("hang")
    changes = Changes()
    async with working(make_worker(database_url, tmp_path, changes=changes.table())):
        await start_run(conn, settings_for(database_url, tmp_path), "main", actor="test")
        await wait_until(lambda: list(tmp_path.glob("*/events.jsonl")), timeout=60)
        wanted = [payload(JobKind.PROMOTE), payload(JobKind.ROLLBACK)]
        for one in wanted:
            assert await jobs.enqueue(conn, one)
        await wait_until(lambda: len(changes.called) == 2, timeout=60)
        assert sorted(changes.called, key=lambda one: one.kind) == wanted
        await wait_until(lambda: queue_is(conn, [("train", "picked")]), timeout=60)
        (tmp_path / "go").touch()


async def queue_is(conn: Conn, expected: list[tuple[str, str]]) -> bool:
    return await queued(conn) == expected


async def test_an_outage_repeats_a_promotion_and_a_refusal_ends_it(
    conn: Conn, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "CHANGE_RETRY_S", 0.1)
    changes = Changes(UnavailableError("no replica answers"), OSError("broken pipe"), CommandError("refused"))
    async with working(make_worker(database_url, tmp_path, changes=changes.table())):
        await jobs.enqueue(conn, payload(JobKind.PROMOTE))
        await wait_until(lambda: queue_is(conn, []), timeout=60)
    assert len(changes.called) == 3


async def test_a_freeze_holds_a_promotion_and_a_no_of_the_gate_ends_it(
    conn: Conn, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "FROZEN_PAUSE_S", 0.1)
    frozen = PromotionRefusedError(Refusal.FROZEN, "main is frozen")
    changes = Changes(frozen, frozen, PromotionRefusedError(Refusal.GATE, "the gate said 'fail'"))
    async with working(make_worker(database_url, tmp_path, changes=changes.table())):
        await jobs.enqueue(conn, payload(JobKind.PROMOTE))
        await wait_until(lambda: queue_is(conn, []), timeout=60)
    assert len(changes.called) == 3


async def test_a_fault_stays_visible(conn: Conn, database_url: str, tmp_path: Path) -> None:
    changes = Changes(ZeroDivisionError("a fault of ours"))
    async with working(make_worker(database_url, tmp_path, changes=changes.table())):
        await jobs.enqueue(conn, payload(JobKind.ROLLBACK))
        await wait_until(lambda: queue_is(conn, [("rollback", "failed")]), timeout=60)
        assert await jobs.held(conn) == 1
        assert await jobs.enqueue(conn, payload(JobKind.ROLLBACK)), "it holds nothing up"
        await wait_until(lambda: len(changes.called) == 2, timeout=60)


async def test_a_stop_puts_a_promotion_back(conn: Conn, database_url: str, tmp_path: Path) -> None:
    changes = Changes()
    changes.hold.clear()
    async with working(make_worker(database_url, tmp_path, changes=changes.table())):
        await jobs.enqueue(conn, payload(JobKind.PROMOTE))
        await wait_until(lambda: changes.called, timeout=60)
    assert await queued(conn) == [("promote", "queued")]
    again = Changes()
    async with working(make_worker(database_url, tmp_path, changes=again.table())):
        await wait_until(lambda: queue_is(conn, []), timeout=60)
    assert again.called == changes.called


async def test_a_trainer_for_one_lane_leaves_the_other(conn: Conn, database_url: str, tmp_path: Path) -> None:
    changes = Changes()
    await start_run(conn, settings_for(database_url, tmp_path), "main", actor="test")
    async with working(make_worker(database_url, tmp_path, changes=changes.table(), lanes=("serve",))):
        await jobs.enqueue(conn, payload(JobKind.PROMOTE))
        await wait_until(lambda: queue_is(conn, [("train", "queued")]), timeout=60)
        assert (await jobs.workers(conn, "serve"), await jobs.workers(conn, "train")) == (1, 0)


def test_the_products_own_changes_are_there() -> None:
    assert set(worker_module._changes()) == set(jobs.SERVING_KINDS)
