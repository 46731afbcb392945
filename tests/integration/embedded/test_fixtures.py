"""The fixtures themselves, as other tests use them."""

from __future__ import annotations

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from sentinel.store.engine import libpq_url
from tests.support.brokers import Broker
from tests.support.kafka_client import Record
from tests.support.postgres import Databases


async def test_each_test_has_its_own_database(postgres_server: Databases) -> None:
    async with postgres_server.database() as first, postgres_server.database() as second:
        assert first != second
        connection = await asyncpg.connect(libpq_url(first))
        await connection.execute("CREATE TABLE mine (a int)")
        await connection.close()
        other = await asyncpg.connect(libpq_url(second))
        assert await other.fetchval("SELECT to_regclass('mine')") is None
        # Left open on purpose: dropping the database must not wait for it.
    connection = await asyncpg.connect(libpq_url(postgres_server.admin_url))
    names = await connection.fetch("SELECT datname FROM pg_database")
    assert first.rsplit("/", 1)[1] not in {row["datname"] for row in names}
    await connection.close()
    other.terminate()


async def test_records_come_back_as_written(broker: Broker) -> None:
    topic = broker.create_topic(partitions=2)
    places = broker.produce(
        topic,
        [
            Record(b"one", key=b"k", headers=[("h", b"x")], timestamp=1_000, partition=1),
            Record(None, key=b"tombstone", partition=1),
            b"no key",
        ],
    )
    assert places[:2] == [(1, 0), (1, 1)]
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, group_id=f"g-{topic}", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        found: dict[tuple[int, int], ConsumerRecord[bytes, bytes]] = {}
        while len(found) < 3:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found |= {(record.partition, record.offset): record for record in records}
    finally:
        await consumer.stop()
    first = found[1, 0]
    assert (first.value, first.key, first.headers, first.timestamp) == (b"one", b"k", (("h", b"x"),), 1_000)
    assert found[1, 1].value is None
    assert found[places[2]].value == b"no key"
