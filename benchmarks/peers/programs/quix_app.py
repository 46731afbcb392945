"""Quix Streams: a StreamingDataFrame into its PostgreSQLSink, checkpoints by count.

A checkpoint writes the sink's batch, then commits the offsets. `ON CONFLICT DO NOTHING` is the sink's option.
"""

import logging
import tempfile

from onetable import decode_event, settings
from quixstreams import Application
from quixstreams.sinks.community.postgresql import PostgreSQLSink

BATCH = 5000


def row(value: bytes) -> dict:
    event = decode_event(value)
    return {
        "event_id": str(event.id),
        "occurred_at": event.time,
        "source": event.source,
        "tenant": event.tenant,
        "model": event.model,
        "prompt": event.prompt,
        "response": event.response,
    }


def main() -> None:
    at = settings()
    app = Application(
        broker_address=at.bootstrap,
        consumer_group=at.group,
        auto_offset_reset="earliest",
        commit_every=BATCH,
        commit_interval=0.5,
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=tempfile.mkdtemp(prefix="quix-"),
        loglevel=logging.WARNING,
    )
    sink = PostgreSQLSink(
        host=at.host,
        port=at.port,
        dbname=at.database,
        user=at.user,
        password=at.password,
        table_name=at.table,
        schema_auto_update=False,
        on_conflict_do_nothing=True,
        include_metadata=False,
    )
    frame = app.dataframe(app.topic(at.topic, value_deserializer="bytes"))
    frame.apply(row).sink(sink)
    app.run()


if __name__ == "__main__":
    main()
