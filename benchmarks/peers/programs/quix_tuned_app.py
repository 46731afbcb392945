"""Quix Streams with a sink of our own, on the base class that its documentation gives for that.

Its PostgreSQLSink renders every row as SQL text; one unnest of bound arrays costs a third less.
"""

import logging
import re
import tempfile

import psycopg
from onetable import UNNEST, Settings, as_columns, decode_event, settings
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

BATCH = 5000


class UnnestSink(BatchingSink):
    """One transaction per checkpoint and partition; psycopg 3, since psycopg2 has no binary parameters."""

    def __init__(self, at: Settings) -> None:
        super().__init__()
        self._at = at
        self._insert = re.sub(r"\$\d", "%b", UNNEST.format(table=at.table))

    def setup(self) -> None:
        at = self._at
        self._database = psycopg.connect(
            host=at.host, port=at.port, user=at.user, password=at.password, dbname=at.database
        )

    def write(self, batch: SinkBatch) -> None:
        with self._database.transaction():
            self._database.execute(self._insert, as_columns([item.value for item in batch]))


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
    frame = app.dataframe(app.topic(at.topic, value_deserializer="bytes"))
    frame.apply(decode_event).sink(UnnestSink(at))
    app.run()


if __name__ == "__main__":
    main()
