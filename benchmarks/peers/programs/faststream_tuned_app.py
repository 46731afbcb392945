"""FastStream reduced to its consumer loop: the handler gets bytes and parses them itself.

A decoder that keeps bytes skips FastStream's own parsing and `apply_types=False` its validation, and with
them most of what the framework is for.
"""

import asyncpg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from onetable import UNNEST, as_columns, decode_event, settings

BATCH = 1000

at = settings()
insert = UNNEST.format(table=at.table)
broker = KafkaBroker(at.bootstrap, logger=None, apply_types=False)
app = FastStream(broker, logger=None)
database: "asyncpg.Connection"


@app.on_startup
async def connect() -> None:
    global database
    database = await asyncpg.connect(
        host=at.host, port=at.port, user=at.user, password=at.password, database=at.database
    )


async def keep_bytes(message):
    return [record.value for record in message.raw_message]


@broker.subscriber(
    at.topic,
    batch=True,
    max_records=BATCH,
    group_id=at.group,
    auto_offset_reset="earliest",
    session_timeout_ms=45000,
    ack_policy=AckPolicy.NACK_ON_ERROR,
    decoder=keep_bytes,
)
async def store(batch) -> None:
    await database.execute(insert, *as_columns([decode_event(value) for value in batch]))


uvloop.run(app.run())
