"""The limit: nothing between aiokafka and Postgres but parsing.

Fetch a batch and parse it while the batch before is being stored; commit behind the rows, twice a second at
most.
"""

import asyncio
import time

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from onetable import UNNEST, Event, as_columns, decode_event, settings

BATCH = 1000
COMMIT_EVERY = 0.5


async def main() -> None:
    at = settings()
    insert = UNNEST.format(table=at.table)
    database = await asyncpg.connect(
        host=at.host, port=at.port, user=at.user, password=at.password, database=at.database
    )
    consumer = AIOKafkaConsumer(
        at.topic,
        bootstrap_servers=at.bootstrap,
        group_id=at.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=45000,
    )
    await consumer.start()
    storing: asyncio.Task[object] | None = None
    stored: dict[TopicPartition, int] = {}
    read: dict[TopicPartition, int] = {}
    committed_at = time.monotonic()
    while True:
        batches = await consumer.getmany(timeout_ms=200, max_records=BATCH)
        events: list[Event] = []
        read_now = dict(read)
        for partition, records in batches.items():
            events += [decode_event(record.value) for record in records]
            read_now[partition] = records[-1].offset + 1
        if storing is not None:
            await storing
            storing, stored = None, read
        if events:
            storing = asyncio.create_task(database.execute(insert, *as_columns(events)))
        read = read_now
        if stored and time.monotonic() - committed_at >= COMMIT_EVERY:
            await consumer.commit(stored)
            stored, committed_at = {}, time.monotonic()


uvloop.run(main())
