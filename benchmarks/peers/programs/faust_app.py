"""Faust: an agent that takes batches from its stream and stores them.

Faust acknowledges a batch once it is stored and commits every 2.8 s. Its monitor, which notes every event, is
off.
"""

import mode.loop

# Before Faust is imported, which makes a loop of its own otherwise.
mode.loop.use("uvloop")

import asyncpg  # noqa: E402
import faust  # noqa: E402
from onetable import UNNEST, as_columns, decode_event, settings  # noqa: E402

BATCH = 4000

at = settings()
insert = UNNEST.format(table=at.table)
app = faust.App(
    at.group,
    broker=f"kafka://{at.bootstrap}",
    consumer_auto_offset_reset="earliest",
    value_serializer="raw",
    stream_wait_empty=False,
    stream_buffer_maxsize=16384,
    topic_disable_leader=True,
    web_enabled=False,
)
topic = app.topic(at.topic, value_type=bytes, value_serializer="raw")


@app.task
async def without_monitor():
    app.sensors.remove(app.monitor)


@app.agent(topic)
async def store(stream):
    database = await asyncpg.connect(
        host=at.host, port=at.port, user=at.user, password=at.password, database=at.database
    )
    async for batch in stream.take(BATCH, within=0.2):
        await database.execute(insert, *as_columns([decode_event(value) for value in batch]))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARN").execute_from_commandline()
