"""Outbox rows leave at least once, in order, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from producers.kafka import make_producer
from producers.relay import OMITTED_HEADER, Relay, RelayLimits
from sentinel.clock import SystemClock
from sentinel.settings import Database, Kafka
from sentinel.store import outbox
from sentinel.store.engine import create_engine, raw_connection
from sentinel.store.outbox import OutboxRow
from tests.integration.producers.conftest import Connect
from tests.support.brokers import ApacheKafka, Broker
from tests.support.kafka_server import KafkaServer
from tests.support.relays import Landed, RecordedMetrics, read_all
from tests.support.waiting import wait_until

FAST = RelayLimits(poll_interval=0.02, first_backoff=0.05, longest_backoff=0.2, backlog_interval=0.05)


def maker(bootstrap: str, **settings: Any) -> Callable[[], AIOKafkaProducer]:
    kafka = Kafka.model_validate({"bootstrap_servers": bootstrap, **settings})
    return lambda: make_producer(kafka, role="relay")


def relay(
    topic: str, connect: Connect, bootstrap: str, *, ordered: bool = False, limits: RelayLimits = FAST
) -> tuple[Relay, RecordedMetrics]:
    metrics = RecordedMetrics()
    made = Relay(
        topic, connect, maker(bootstrap), clock=SystemClock(), metrics=metrics, ordered=ordered, limits=limits
    )
    return made, metrics


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(one.run(stop)) for one in relays]
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)


async def write(connect: Connect, rows: list[OutboxRow]) -> None:
    async with connect() as conn, conn.transaction():
        await outbox.insert(conn, rows)


async def unsent(connect: Connect, topic: str) -> int:
    async with connect() as conn:
        return (await outbox.backlog(conn, topic)).rows


def numbered(topic: str, n: int, size: int = 10, key: bytes | None = None) -> list[OutboxRow]:
    return [
        OutboxRow(topic, key, (("n", str(i).encode()), ("none", None)), b"%d " % i + b"x" * size)
        for i in range(n)
    ]


def number(record: Landed) -> int:
    assert record.value is not None
    return int(record.value.split()[0])


async def test_rows_leave_whole_and_are_marked(broker: Broker, connect: Connect) -> None:
    topic = broker.create_topic(partitions=2)
    rows = [*numbered(topic, 50), OutboxRow(topic, b"key\x00\xff", (("b", b"\x00\xff"),), None)]
    one, metrics = relay(topic, connect, broker.bootstrap)
    async with running(one):
        await write(connect, rows)
        one.wake()
        await wait_until(lambda: metrics.sent_rows[topic] == 51)
    records = await read_all(broker.bootstrap, topic)
    sent = sorted((r.headers, r.value) for r in records if r.key is None)
    assert sent == sorted((r.headers, r.payload) for r in rows if r.key is None)
    assert [(r.headers, r.value) for r in records if r.key == b"key\x00\xff"] == [
        ((("b", b"\x00\xff"),), None)
    ]
    assert await unsent(connect, topic) == 0


async def test_two_relays_send_each_row_once(kafka: ApacheKafka, connect: Connect) -> None:
    topic = kafka.create_topic(partitions=4)
    limits = RelayLimits(batch_rows=20, poll_interval=0.01)
    (one, seen_one), (two, seen_two) = (relay(topic, connect, kafka.bootstrap, limits=limits) for _ in "ab")
    rows = numbered(topic, 20_000)
    written = 0
    async with running(one, two):
        # Until both had a part in it, however long one of them takes to begin.
        while written < 1000 or not (seen_one.sent_rows[topic] and seen_two.sent_rows[topic]):
            await write(connect, rows[written : written + 200])
            written += 200
            assert written < len(rows), (seen_one.sent_rows, seen_two.sent_rows)
            await wait_until(
                lambda: seen_one.sent_rows[topic] + seen_two.sent_rows[topic] >= written - 100  # noqa: B023
            )
        await wait_until(lambda: seen_one.sent_rows[topic] + seen_two.sent_rows[topic] == written)
    records = await read_all(kafka.bootstrap, topic)
    assert sorted(number(r) for r in records) == list(range(written))


async def test_an_ordered_topic_has_one_relay_and_keeps_its_order(
    kafka: ApacheKafka, connect: Connect
) -> None:
    topic = kafka.create_topic(partitions=1)
    limits = RelayLimits(batch_rows=10, poll_interval=0.01)
    pair = [relay(topic, connect, kafka.bootstrap, ordered=True, limits=limits) for _ in "ab"]
    async with running(*(one for one, _ in pair)):
        for start in range(0, 100, 20):
            await write(connect, numbered(topic, 100)[start : start + 20])
        await wait_until(lambda: sum(m.sent_rows[topic] for _, m in pair) == 100, timeout=60)
    records = await read_all(kafka.bootstrap, topic)
    assert [number(r) for r in records] == list(range(100))


async def test_while_one_relay_holds_the_order_another_sends_nothing(
    kafka: ApacheKafka, connect: Connect
) -> None:
    topic = kafka.create_topic(partitions=1)
    await write(connect, numbered(topic, 3))
    one, metrics = relay(topic, connect, kafka.bootstrap, ordered=True)
    async with connect() as conn, conn.transaction():
        assert await outbox.lock_order(conn, topic)
        assert (await one.pass_once()).sent == 0
    assert (await one.pass_once()).sent == 3
    assert metrics.sent_rows[topic] == 3
    await one._close_all()


async def test_a_value_too_large_leaves_without_it_and_holds_nobody_up(
    kafka: ApacheKafka, connect: Connect
) -> None:
    topic = kafka.create_topic(partitions=1, config={"max.message.bytes": "100000"})
    noise = os.urandom(300_000)  # does not compress
    rows = [
        *numbered(topic, 3),
        OutboxRow(topic, b"big", (("reason", b"too_large"),), noise),
        *numbered(topic, 3),
    ]
    one, metrics = relay(topic, connect, kafka.bootstrap)
    async with running(one):
        await write(connect, rows)
        await wait_until(lambda: metrics.sent_rows[topic] == 7)
        await write(connect, numbered(topic, 2))
        await wait_until(lambda: metrics.sent_rows[topic] == 9)
    records = await read_all(kafka.bootstrap, topic)
    big = [r for r in records if r.key == b"big"]
    assert [(r.value, dict(r.headers)) for r in big] == [
        (None, {"reason": b"too_large", OMITTED_HEADER: b"300000"})
    ]
    assert len(records) == 9
    assert metrics.failures.total() == 0


async def test_small_rows_refused_together_still_leave_whole(kafka: ApacheKafka, connect: Connect) -> None:
    topic = kafka.create_topic(partitions=1, config={"max.message.bytes": "5000"})
    rows = [OutboxRow(topic, b"k", (), os.urandom(3000)) for _ in range(5)]
    one, metrics = relay(topic, connect, kafka.bootstrap)
    async with running(one):
        await write(connect, rows)
        await wait_until(lambda: metrics.sent_rows[topic] == 5)
    records = await read_all(kafka.bootstrap, topic)
    assert sorted(r.value or b"" for r in records) == sorted(r.payload for r in rows if r.payload)


async def test_a_missing_topic_is_waited_for_and_the_rows_stay(kafka: ApacheKafka, connect: Connect) -> None:
    topic = "not-there-" + kafka.create_topic(partitions=1)
    await write(connect, numbered(topic, 2))
    limits = RelayLimits(poll_interval=0.02, first_backoff=0.05, send_timeout=3.0, backlog_interval=0.05)
    one, metrics = relay(topic, connect, kafka.bootstrap, limits=limits)
    async with running(one):
        await wait_until(lambda: metrics.failures.total() >= 1)
        assert metrics.sent_rows[topic] == 0
        await wait_until(lambda: any(rows == 2 and age > 0 for _, rows, age in metrics.backlogs))
        kafka.create_topic(topic, partitions=1)
        await wait_until(lambda: metrics.sent_rows[topic] == 2, timeout=60)
    # At least once: an answer of the new topic may have come later than the relay waits for it.
    assert {number(r) for r in await read_all(kafka.bootstrap, topic)} == {0, 1}


@pytest.mark.slow
async def test_a_broker_outage_keeps_rows_and_ends_by_itself(
    kafka_factory: Callable[..., KafkaServer], connect: Connect
) -> None:
    server = await asyncio.to_thread(kafka_factory)
    client = ApacheKafka(server.bootstrap)
    topic = await asyncio.to_thread(lambda: client.create_topic(partitions=2))
    limits = RelayLimits(poll_interval=0.02, first_backoff=0.05, longest_backoff=0.3, send_timeout=2.0)
    one, metrics = relay(topic, connect, server.bootstrap, limits=limits)
    async with running(one):
        await write(connect, numbered(topic, 20))
        await wait_until(lambda: metrics.sent_rows[topic] == 20)
        await asyncio.to_thread(server.kill)
        await write(connect, [*numbered(topic, 30)])
        await wait_until(lambda: metrics.failures["broker"] >= 2, timeout=60)
        assert await unsent(connect, topic) == 30
        await asyncio.to_thread(server.start)
        await wait_until(lambda: metrics.sent_rows[topic] == 50, timeout=60)
    records = await read_all(server.bootstrap, topic)
    # At least once: what was sent before the kill may be there twice, nothing is missing.
    assert len(records) >= 50
    assert {number(r) for r in records} == set(range(30))
    client.close()


async def test_stopping_during_an_outage_is_quick(connect: Connect, free_port: int) -> None:
    await write(connect, numbered("any", 2))
    one, metrics = relay("any", connect, f"127.0.0.1:{free_port}")
    loop = asyncio.get_running_loop()
    async with running(one):
        await wait_until(lambda: metrics.failures["broker"] >= 1)
        started = loop.time()
    # A request to Kafka may take 40 s.
    assert loop.time() - started < 20
    assert await unsent(connect, "any") == 2


async def test_a_crash_before_the_mark_sends_again(kafka: ApacheKafka, connect: Connect) -> None:
    topic = kafka.create_topic(partitions=1)
    await write(connect, numbered(topic, 5))
    one, _ = relay(topic, connect, kafka.bootstrap)
    with pytest.MonkeyPatch.context() as patch, suppress(asyncio.CancelledError):

        async def killed(*_: Any) -> None:
            raise asyncio.CancelledError

        patch.setattr(outbox, "mark_sent", killed)
        await one.pass_once()
    assert await unsent(connect, topic) == 5
    assert (await one.pass_once()).sent == 5
    await one._close_all()
    assert len(await read_all(kafka.bootstrap, topic)) == 10


async def test_a_database_outage_is_waited_for(kafka: ApacheKafka, free_port: int) -> None:
    url = f"postgresql+asyncpg://nobody@127.0.0.1:{free_port}/none"
    engine = create_engine(Database.model_validate({"url": url}))
    one, metrics = relay("any", lambda: raw_connection(engine), kafka.bootstrap)
    async with running(one):
        await wait_until(lambda: metrics.failures["database"] >= 2)
    await engine.dispose()


async def test_claims_are_bounded_by_bytes(connect: Connect) -> None:
    await write(connect, numbered("t", 10, size=1000))
    async with connect() as conn, conn.transaction():
        assert len(await outbox.claim(conn, ["t"], limit=100, max_bytes=2500)) == 3
        assert len(await outbox.claim(conn, ["t"], limit=2)) == 2
        assert len(await outbox.claim(conn, ["t"], limit=100, max_bytes=1)) == 1
    async with connect() as conn, conn.transaction():
        rows = await outbox.claim(conn, ["t"], limit=100)
        assert [r.id for r in rows] == sorted(r.id for r in rows)
        await outbox.mark_sent(conn, [r.id for r in rows[:4]])
    async with connect() as conn, conn.transaction():
        assert len(await outbox.claim(conn, ["t"], limit=100)) == 6
        past = SystemClock().now()
        assert await outbox.delete_sent(conn, before=past, limit=3) == 3
        assert await outbox.delete_sent(conn, before=past) == 1
