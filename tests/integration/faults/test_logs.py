"""Logs that are not what they were: made anew, cut at the beginning, with holes, compressed."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sentinel.embedded import VOLATILE_CLUSTER_PREFIX
from sentinel.embedded.broker import EmbeddedBroker
from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.settings import Settings
from sentinel.store import halts, offsets
from sentinel.store.engine import libpq_url
from tests.support.accounting import account, assert_sums
from tests.support.brokers import Broker, Embedded
from tests.support.events import many
from tests.support.kafka_client import Record
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


async def _topic(
    broker: Broker, url: str, guard: ScriptedGuard, *, partitions: int = 1
) -> tuple[str, Settings]:
    topic = await asyncio.to_thread(broker.create_topic, partitions=partitions)
    return topic, settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=url, guard_url=guard.url, group=topic
    )


async def _made_anew(broker: Broker, topic: str, partitions: int = 1) -> None:
    await asyncio.to_thread(broker.delete_topic, topic)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 4})
    await wait_until(lambda: topic not in admin.list_topics(timeout=60).topics, timeout=60, interval=0.2)
    await asyncio.to_thread(broker.create_topic, topic, partitions=partitions)


@pytest.mark.parametrize("records_after", [10, 150])
async def test_a_topic_made_anew_halts_until_an_operator_resets_it(
    broker: Broker, database_url: str, guard: ScriptedGuard, records_after: int
) -> None:
    """Shorter than before: the position is beyond the end. Longer: another record stands where ours was."""
    topic, settings = await _topic(broker, database_url, guard)
    await asyncio.to_thread(broker.produce, topic, many(100))
    async with running(settings) as service:
        await caught_up(service, 100)
    await _made_anew(broker, topic)
    await asyncio.to_thread(broker.produce, topic, many(records_after, start=1000))

    async with running(settings) as service:
        await wait_until(lambda: [t.halted for t in service.intake.loop.owned] == ["foreign"], timeout=60)
        assert not service._ready().ok
        assert (await account(database_url, topic)).records == 100
        conn = await asyncpg.connect(libpq_url(database_url))
        async with conn.transaction():
            await halts.reset(
                conn,
                topic,
                0,
                next_offset=0,
                cluster_id=await asyncio.to_thread(broker.cluster_id),
                actor="test",
            )

        async def passed() -> bool:
            sums = await conn.fetchval(
                "SELECT coalesce(sum(n), 0) FROM partition_outcomes WHERE incarnation = 1"
            )
            return bool(sums == records_after)

        await wait_until(passed, timeout=60, interval=0.1)
        rows = await conn.fetch(
            "SELECT incarnation, n::int AS n FROM partition_outcomes ORDER BY incarnation"
        )
        await conn.close()
    assert [(row["incarnation"], row["n"]) for row in rows] == [(0, 100), (1, records_after)]
    found = await account(database_url, topic)
    assert found.interactions == 100 + records_after


async def test_an_embedded_broker_that_started_anew_is_adopted_and_a_real_one_never(
    database_url: str, guard: ScriptedGuard
) -> None:
    """It has no memory, so its next start is another log under the same names; whoever owns it says so."""
    conn = await asyncpg.connect(libpq_url(database_url))
    # Both live all the time: their identity is an address in memory, which a second one might be given again.
    with EmbeddedBroker({"llm.events": 2}) as first, EmbeddedBroker({"llm.events": 2}) as second:
        for start, server in enumerate((first, second)):
            broker = Embedded(server)
            settings = settings_for(
                bootstrap=broker.bootstrap, topic="llm.events", database_url=database_url, guard_url=guard.url
            )
            records = [Record(value, partition=n % 2) for n, value in enumerate(many(60, start=start * 60))]
            await asyncio.to_thread(broker.produce, "llm.events", records)
            if start == 1:
                async with running(settings) as service:
                    await wait_until(
                        lambda: [t.halted for t in service.intake.loop.owned] == ["foreign"] * 2, timeout=60
                    )
                await conn.execute("UPDATE consumer_offsets SET cluster_id = 'real' WHERE partition = 1")
                adopted = await offsets.adopt_volatile_log(
                    conn, broker.cluster_id(), prefix=VOLATILE_CLUSTER_PREFIX
                )
                assert adopted == 1
            async with running(settings) as service:
                # A partition is owned a moment before its log is looked at.
                expected = [(0, None), (1, "foreign" if start else None)]

                def looked_at(expected: object = expected) -> bool:
                    owned = service.intake.loop.owned
                    return sorted((t.partition.partition, t.halted) for t in owned) == expected

                await wait_until(looked_at, timeout=60)
                ends = broker.client.end_offsets("llm.events", 2)
                read = [0] if start else [0, 1]

                async def passed(
                    wanted: int = sum(ends[number] for number in read), run: int = start
                ) -> bool:
                    sums = await conn.fetchval(
                        "SELECT coalesce(sum(n), 0) FROM partition_outcomes WHERE incarnation = $1", run
                    )
                    return bool(sums == wanted)

                await wait_until(passed, timeout=60, interval=0.1)
            broker.close()
    said = await conn.fetch("SELECT subject FROM audit_log WHERE action = 'adopt a new embedded broker'")
    await conn.close()
    assert [row["subject"] for row in said] == ["llm.events/0"]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records_are_read(
    broker: Broker, database_url: str, guard: ScriptedGuard, codec: str
) -> None:
    topic, settings = await _topic(broker, database_url, guard)

    def compressed() -> None:
        producer = Producer(
            {
                "bootstrap.servers": broker.bootstrap,
                "compression.type": codec,
                "linger.ms": 50,
                "log_level": 4,
            }
        )
        for value in many(40):
            producer.produce(topic, value, partition=0)
        assert producer.flush(60) == 0

    await asyncio.to_thread(compressed)
    async with running(settings) as service:
        await caught_up(service, 40)
    found = await account(database_url, topic)
    assert_sums(found, records=40)
    assert found.outcomes == {"stored": 40}


@pytest.mark.needs("admin")
async def test_records_that_the_log_dropped_are_a_gap(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic, settings = await _topic(broker, database_url, guard)
    await asyncio.to_thread(broker.produce, topic, many(50))
    async with running(settings) as service:
        await caught_up(service, 50)
    await asyncio.to_thread(broker.produce, topic, many(100, start=50))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 4})
    for future in admin.delete_records([TopicPartition(topic, 0, 90)]).values():
        await asyncio.to_thread(future.result, 60)
    async with running(settings) as service:
        await caught_up(service, 150)
        assert b"sentinel_offset_gap_records_total 40.0" in service.metrics.exposition()[0]
    found = await account(database_url, topic)
    assert_sums(found, records=110)
    assert found.lost == 40
    conn = await asyncpg.connect(libpq_url(database_url))
    gaps = await conn.fetch("SELECT from_offset, to_offset FROM offset_gaps")
    await conn.close()
    assert [(g["from_offset"], g["to_offset"]) for g in gaps] == [(50, 90)]


@pytest.mark.needs("admin")
async def test_records_dropped_while_running_are_a_gap(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    """The position leaves the log under a running consumer: OffsetOutOfRange, then the same procedure."""
    topic, settings = await _topic(broker, database_url, guard)
    await asyncio.to_thread(broker.produce, topic, many(20))
    guard.set_faults(error_rate=1.0)
    settings = settings.model_copy(
        update={"consumer": settings.consumer.model_copy(update={"in_flight": 4, "span_factor": 1})}
    )
    async with running(settings) as service:
        await wait_until(lambda: service.intake.scorer.in_flight > 0, timeout=60)
        await asyncio.to_thread(broker.produce, topic, many(20_000, start=20))
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 4})
        for future in admin.delete_records([TopicPartition(topic, 0, 20_000)]).values():
            await asyncio.to_thread(future.result, 60)
        guard.clear_faults()
        await caught_up(service, 20_020, timeout=60)
    found = await account(database_url, topic)
    assert_sums(found, records=found.records)
    assert found.lost > 0
    assert found.records + found.lost == 20_020


async def test_transaction_markers_are_holes_and_aborted_records_are_not_read(
    kafka: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic, settings = await _topic(kafka, database_url, guard)

    def transactions() -> None:
        producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "transactional.id": topic,
                "compression.type": "zstd",
                "log_level": 4,
            }
        )
        producer.init_transactions(60)
        for number in range(6):
            producer.begin_transaction()
            for value in many(10, start=number * 10):
                producer.produce(topic, value, partition=0)
            producer.flush(60)  # what was never sent would not be there to abort
            if number == 2:
                producer.abort_transaction(60)
            else:
                producer.commit_transaction(60)

    await asyncio.to_thread(transactions)
    # One more record: holes count when a record behind them is passed.
    await asyncio.to_thread(kafka.produce, topic, many(1, start=999))
    async with running(settings) as service:
        await caught_up(service, 67)
    found = await account(database_url, topic)
    assert_sums(found, records=51)
    assert found.holes == 6 + 10
    assert found.outcomes == {"stored": 51}


async def test_events_of_one_key_are_recorded_in_order(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic, settings = await _topic(broker, database_url, guard, partitions=2)
    settings = settings.model_copy(
        update={
            "consumer": settings.consumer.model_copy(update={"order": "key", "flush_rows": 10}),
            "guard": settings.guard.model_copy(update={"batch_size": 2, "check_prompts": False}),
        }
    )
    guard.set_faults(latency_low=0.0, latency_high=0.02)
    records = [Record(value=value, key=b"abc"[i % 3 : i % 3 + 1]) for i, value in enumerate(many(90))]
    places = await asyncio.to_thread(broker.produce, topic, records)
    for key in range(3):
        # What follows shows nothing where the log itself has another order.
        assert places[key::3] == sorted(places[key::3])
    async with running(settings) as service:
        await caught_up(service, 90)
    conn = await asyncpg.connect(libpq_url(database_url))
    rows = await conn.fetch(
        # By transaction, not by the wall clock: a machine's clock may be set back between two flushes.
        "SELECT k.partition, k.offset, k.xmin::text::bigint AS flush, t.messages->0->>'text' AS text"
        " FROM event_keys k JOIN interaction_texts t USING (event_id) ORDER BY flush, k.partition, k.offset"
    )
    await conn.close()
    assert len({row["flush"] for row in rows}) > 5
    for key in range(3):
        numbers = [int(row["text"].split()[-1].rstrip(".")) for row in rows]
        mine = [number for number in numbers if number % 3 == key]
        assert mine == sorted(mine)
