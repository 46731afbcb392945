"""Relays under test: what they report, and what a topic holds afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition


class RecordedMetrics:
    """Remembers what a relay reports."""

    def __init__(self) -> None:
        self.sent_rows: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.backlogs: list[tuple[str, int, float]] = []

    def sent(self, topic: str, n: int) -> None:
        self.sent_rows[topic] += n

    def failed(self, topic: str, reason: str) -> None:
        self.failures[reason] += 1

    def backlog(self, topic: str, rows: int, oldest_seconds: float) -> None:
        self.backlogs.append((topic, rows, oldest_seconds))


@dataclass(frozen=True, slots=True)
class Landed:
    """A record as the topic holds it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


async def read_all(bootstrap: str, topic: str) -> list[Landed]:
    """Every record of a topic, by partition and offset."""
    return await asyncio.to_thread(_read_all, bootstrap, topic)


def _read_all(bootstrap: str, topic: str) -> list[Landed]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "sentinel-tests-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        partitions = set(consumer.list_topics(topic, timeout=60).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        found: list[Landed] = []
        deadline = time.monotonic() + 90
        while partitions and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                partitions.discard(message.partition())
                continue
            place = message.partition(), message.offset()
            assert place[0] is not None
            assert place[1] is not None
            headers = cast("tuple[tuple[str, bytes | None], ...]", tuple(message.headers() or ()))
            found.append(Landed(place[0], place[1], message.key(), message.value(), headers))
        assert not partitions, "the topic's end was not reached"
        return sorted(found, key=lambda r: (r.partition, r.offset))
    finally:
        consumer.close()
