"""The daemon's task: it looks by itself, survives an outage, and shows triggers and runs in the metrics."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from daemon.triggers.task import TriggerTask
from sentinel.clock import SystemClock
from sentinel.errors import UnavailableError
from sentinel.metrics import TRIGGERS, Metrics
from sentinel.settings import Settings
from sentinel.store import training
from sentinel.store.engine import libpq_url
from tests.integration.jobs.conftest import add_dataset, add_pairs
from tests.support.waiting import wait_until

Conn: TypeAlias = "asyncpg.Connection[Any]"


class Bench:
    """Tasks over one database; `away` makes it unreachable."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.away = False
        self.refused = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Conn]:
        if self.away:
            self.refused += 1
            raise UnavailableError("the database is away")
        conn = await asyncpg.connect(libpq_url(self.url))
        try:
            yield conn
        finally:
            await conn.close()

    def make(self, **triggers: Any) -> tuple[TriggerTask, Metrics]:
        settings = Settings.model_validate(
            {
                "served_models": {"main": {"public_name": "chat", "base": "tiny"}},
                "triggers": {
                    "check_interval_s": 0.02,
                    "min_fresh_pairs": 5,
                    "new_pairs": {"count": 10},
                    **triggers,
                },
            }
        )
        metrics = Metrics(CollectorRegistry(), served_models=["main"])
        return TriggerTask(settings, self.connect, metrics, SystemClock()), metrics


@pytest.fixture
def bench(database_url: str) -> Bench:
    return Bench(database_url)


def shown(metrics: Metrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(name, labels)
    assert value is not None, name
    return value


@asynccontextmanager
async def running(*tasks: TriggerTask) -> AsyncIterator[None]:
    stop = asyncio.Event()
    started = [asyncio.create_task(task.run(stop)) for task in tasks]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*started)


async def test_two_daemons_through_an_outage_start_one_run(bench: Bench, conn: Conn) -> None:
    first, metrics = bench.make()
    second, _ = bench.make()
    async with running(first, second):
        bench.away = True
        await wait_until(lambda: bench.refused >= 2)
        await add_pairs(conn, 10, at=SystemClock().now())
        bench.away = False
        firings = {"trigger": "new_pairs", "served_model": "main"}
        await wait_until(lambda: shown(metrics, "sentinel_trigger_firings", **firings) == 1)
    assert len(await training.runs(conn)) == 1
    assert shown(metrics, "sentinel_trigger_armed", **firings) == 0
    assert shown(metrics, "sentinel_trigger_value", **firings) == 10
    assert math.isnan(shown(metrics, "sentinel_trigger_value", trigger="adapter_age", served_model="main"))
    assert shown(metrics, "sentinel_training_runs", served_model="main", state="queued") == 1


async def test_a_run_is_shown_as_it_goes(bench: Bench, conn: Conn) -> None:
    task, metrics = bench.make()
    run_id = uuid4()
    await training.create_run(conn, run_id, "main")
    attempt = await training.begin_attempt(conn, run_id)
    await training.progress(conn, run_id, attempt, "dataset", 0.5)
    await task.look()
    assert shown(metrics, "dataset_refinement_progress") == 0.5
    assert shown(metrics, "sentinel_training_progress", served_model="main") == pytest.approx(0.125)
    alive = shown(metrics, "sentinel_training_heartbeat_timestamp_seconds", served_model="main")
    assert alive == pytest.approx(SystemClock().now().timestamp(), abs=60)
    await add_dataset(conn, run_id, [])
    await training.progress(conn, run_id, attempt, "gate", 0.0)
    await task.look()
    assert shown(metrics, "dataset_refinement_progress") == 1
    assert shown(metrics, "sentinel_training_progress", served_model="main") == 0.75
    await training.finish(conn, run_id, attempt, "succeeded")
    await task.look()
    assert shown(metrics, "sentinel_training_progress", served_model="main") == 1
    assert shown(metrics, "sentinel_training_heartbeat_timestamp_seconds", served_model="main") == 0
    by_state = {
        state: shown(metrics, "sentinel_training_runs", served_model="main", state=state)
        for state in ("running", "succeeded")
    }
    assert by_state == {"running": 0, "succeeded": 1}


async def test_switched_off_it_starts_nothing(bench: Bench, conn: Conn) -> None:
    task, _ = bench.make(enabled=False)
    await add_pairs(conn, 50, at=SystemClock().now())
    await task.look()
    assert await training.runs(conn) == ()


async def test_every_rule_that_is_looked_at_is_on_the_closed_list(bench: Bench, conn: Conn) -> None:
    task, _ = bench.make()
    await task.look()
    rules = await conn.fetch("SELECT trigger FROM trigger_states")
    assert {row["trigger"] for row in rules} == set(TRIGGERS)
