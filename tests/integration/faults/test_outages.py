"""Parts that go away and come back: the database, the broker, the guard. Nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.embedded.scripted_guard import ERROR_MARK, ScriptedGuard
from tests.support.accounting import account, assert_sums
from tests.support.brokers import Broker
from tests.support.events import encoded, many
from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer
from tests.support.loop_lag import loop_lag
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


async def test_the_database_restarts_and_pauses(
    broker: Broker, private_postgres: EmbeddedPostgres, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=private_postgres.url,
        guard_url=guard.url,
        group=topic,
        consumer={"in_flight": 64},
    )
    async with running(settings) as service:
        await asyncio.to_thread(broker.produce, topic, many(200))
        await caught_up(service, 100)
        await asyncio.to_thread(private_postgres.kill)
        await asyncio.to_thread(broker.produce, topic, many(300, start=200))
        await asyncio.sleep(2)
        await wait_until(lambda: not service._ready().ok, timeout=60)
        assert service._live().ok
        open_records = sum(t.span for t in service.intake.loop.owned)
        assert open_records <= 2 * settings.consumer.span
        await asyncio.to_thread(private_postgres.start)
        await caught_up(service, 500)

        # Paused: connections hang instead of failing, the event loop must not.
        await asyncio.to_thread(private_postgres.pause)
        await asyncio.to_thread(broker.produce, topic, many(100, start=500))
        ours, bare = await loop_lag(2)
        await asyncio.to_thread(private_postgres.resume)
        await caught_up(service, 600)
    # A loop without any work, at the same time, says how late the machine alone makes a timer.
    assert ours.median <= max(0.05, 5 * bare.median), (ours, bare)
    # A blocking call would hold the loop as long as the pause, which only this loop ends.
    assert ours.worst <= 2 + bare.worst, (ours, bare)
    found = await account(private_postgres.url, topic)
    assert_sums(found, records=600)
    assert found.outcomes == {"stored": 600}


@pytest.mark.kafka
async def test_the_broker_restarts(
    kafka_factory: Callable[..., KafkaServer], database_url: str, guard: ScriptedGuard
) -> None:
    server = await asyncio.to_thread(kafka_factory)
    client = KafkaClient(server.bootstrap)
    topic = await asyncio.to_thread(client.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=server.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
    )
    async with running(settings) as service:
        await asyncio.to_thread(client.produce, topic, many(100))
        await caught_up(service, 100)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.restart)
        await asyncio.to_thread(client.produce, topic, many(100, start=100))
        await caught_up(service, 200, timeout=120)
    found = await account(database_url, topic)
    assert_sums(found, records=200)
    assert found.outcomes == {"stored": 200}
    client.close()


async def test_a_guard_that_fails_in_every_way(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    """500s, 429s, hangs, garbage, truncation, resets: all is scored in the end, and no outage is a verdict."""
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        group=topic,
        guard={"timeout_s": 1.0, "attempts": 2},
    )
    await asyncio.to_thread(broker.produce, topic, many(400, unsafe_every=5))
    guard.set_faults(
        error_rate=0.2,
        slow_down_rate=0.1,
        hang_rate=0.05,
        garbage_rate=0.05,
        wrong_shape_rate=0.05,
        truncate_rate=0.05,
        reset_rate=0.05,
        retry_after="0.1",
    )
    async with running(settings) as service:
        await asyncio.sleep(6)
        guard.clear_faults()
        await caught_up(service, 400, timeout=120)
    found = await account(database_url, topic)
    assert_sums(found, records=400)
    unscored = found.outcomes.get("unscored(guard_error)", 0)
    assert found.outcomes.get("stored", 0) + unscored == 400
    assert found.outcomes["stored"] >= 200


async def test_one_text_that_the_guard_cannot_take(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    """It fails the whole batch; the others are scored, it alone is unscored, and the breaker stays closed."""
    topic = await asyncio.to_thread(broker.create_topic, partitions=1)
    settings = settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url, group=topic
    )
    records = [*many(40), encoded(99, response=f"{ERROR_MARK} inside"), *many(40, start=40)]
    await asyncio.to_thread(broker.produce, topic, records)
    async with running(settings) as service:
        await caught_up(service, 81)
        assert service.intake.guard_breaker.opened_total == 0
    found = await account(database_url, topic)
    assert_sums(found, records=81)
    assert found.outcomes == {"stored": 80, "unscored(guard_error)": 1}


async def test_stop_leaves_nothing_half_done(broker: Broker, database_url: str, guard: ScriptedGuard) -> None:
    """A stop with a guard that hangs ends in time; what was unfinished is read by the next start."""
    topic = await asyncio.to_thread(broker.create_topic, partitions=1)
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        group=topic,
        consumer={"drain_s": 0.5, "flush_s": 1.0, "stop_intake_s": 1.0},
    )
    await asyncio.to_thread(broker.produce, topic, many(50))
    guard.set_faults(hang_rate=1.0)
    from daemon.app import Service

    service = Service(settings)
    task = asyncio.create_task(service.run())
    await wait_until(lambda: service.intake.scorer.in_flight > 0, timeout=60)
    service.stop()
    assert await asyncio.wait_for(task, 60) is False
    guard.clear_faults()
    async with running(settings) as again:
        await caught_up(again, 50)
    found = await account(database_url, topic)
    assert_sums(found, records=50)
    assert found.outcomes == {"stored": 50}
