"""FastStream as documented: a batch subscriber with a typed handler, acknowledged after the handler.

FastStream parses (orjson) and msgspec, the faster of its two serializers, validates into the handler's type.
The logger is off, since it writes two lines per batch.
"""

import asyncpg
import uvloop
from fast_depends.msgspec import MsgSpecSerializer
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from onetable import UNNEST, Event, as_columns, settings

BATCH = 1000

at = settings()
insert = UNNEST.format(table=at.table)
broker = KafkaBroker(at.bootstrap, logger=None, serializer=MsgSpecSerializer())
app = FastStream(broker, logger=None)
database: "asyncpg.Connection"


@app.on_startup
async def connect() -> None:
    global database
    database = await asyncpg.connect(
        host=at.host, port=at.port, user=at.user, password=at.password, database=at.database
    )


@broker.subscriber(
    at.topic,
    batch=True,
    max_records=BATCH,
    group_id=at.group,
    auto_offset_reset="earliest",
    session_timeout_ms=45000,
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def store(batch: list[Event]) -> None:
    await database.execute(insert, *as_columns(batch))


uvloop.run(app.run())
