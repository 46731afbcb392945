"""What tests do to a broker from outside: make topics, write records, ask for its identity."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

_PATIENCE_S: Final = 60
"""For a broker on a machine with other work."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record to write; ``partition`` -1 lets the key decide, ``timestamp`` 0 (ms) means now."""

    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, str | bytes | None]] = field(default_factory=list)
    timestamp: int = 0
    partition: int = -1


class KafkaClient:
    """Blocking calls over librdkafka, for fixtures and for filling topics quickly.

    Plain listener only: the secured ones are for the client under test.
    """

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "client.id": "sentinel-tests",
            # What fails is raised by the calls below; librdkafka would also write it to the terminal.
            "log_level": 0,
            # A broker that tests kill and restart is looked for often.
            "reconnect.backoff.max.ms": 500,
            "topic.metadata.refresh.sparse": False,
        }
        self._admin: AdminClient | None = None
        self._producer: Producer | None = None

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._settings)
        return self._admin

    def cluster_id(self) -> str:
        return str(self.admin.list_topics(timeout=_PATIENCE_S).cluster_id)

    def create_topic(
        self, name: str | None = None, *, partitions: int = 4, config: Mapping[str, str] | None = None
    ) -> str:
        """Make a topic (a random name where none is given), wait until it can be written, return its name."""
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self.admin.create_topics([topic], operation_timeout=_PATIENCE_S)[name].result(2 * _PATIENCE_S)
        self._await_partitions(name, partitions)
        return name

    def delete_topic(self, name: str) -> None:
        """Delete it and wait until the brokers have forgotten it."""
        self.admin.delete_topics([name], operation_timeout=_PATIENCE_S)[name].result(2 * _PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if name not in self.admin.list_topics(timeout=_PATIENCE_S).topics:
                return
            time.sleep(0.05)
        raise TimeoutError(f"topic {name} is still there")

    def produce(self, topic: str, records: Iterable[Record | bytes]) -> list[tuple[int, int]]:
        """Write records (acks=all) and return ``(partition, offset)`` of each, in order of the input."""
        if self._producer is None:
            self._producer = Producer(
                self._settings
                | {
                    "acks": "all",
                    # A batch that a new topic's leader refused goes again, else behind the ones that follow it.
                    "enable.idempotence": True,
                    "linger.ms": 2,
                    "message.max.bytes": 64_000_000,
                    "message.timeout.ms": 120_000,
                }
            )
        producer = self._producer
        places: dict[int, tuple[int, int]] = {}
        errors: list[str] = []

        def landed(index: int) -> Any:
            def callback(error: Any, message: Any) -> None:
                if error is not None:
                    errors.append(str(error))
                else:
                    places[index] = (message.partition(), message.offset())

            return callback

        count = 0
        for index, item in enumerate(records):
            record = item if isinstance(item, Record) else Record(item)
            while True:
                try:
                    producer.produce(
                        topic, value=record.value, key=record.key, headers=record.headers or None,
                        timestamp=record.timestamp, partition=record.partition, on_delivery=landed(index),
                    )  # fmt: skip
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
        left = producer.flush(130)
        if errors or left or len(places) != count:
            raise AssertionError(f"{count - len(places)} of {count} records were not written: {errors[:3]}")
        return [places[index] for index in range(count)]

    def end_offsets(self, topic: str, partitions: int) -> dict[int, int]:
        """The next offset of each partition."""
        consumer = Consumer(self._settings | {"group.id": "sentinel-tests"})
        try:
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_PATIENCE_S)[1]
                for number in range(partitions)
            }
        finally:
            consumer.close()

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, int]:
        """The group's next offset by partition; partitions without one are left out."""
        # Named one by one: librdkafka's in-process broker says nothing to a question about all of them.
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, n) for n in range(partitions)])
        found = self.admin.list_consumer_group_offsets([asked], request_timeout=_PATIENCE_S)[group].result(
            2 * _PATIENCE_S
        )
        return {part.partition: part.offset for part in found.topic_partitions or () if part.offset >= 0}

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(5)
        self._producer = self._admin = None

    def _await_partitions(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            found = self.admin.list_topics(name, timeout=_PATIENCE_S).topics.get(name)
            if found is not None and found.error is None and len(found.partitions) == partitions:
                if all(part.leader >= 0 for part in found.partitions.values()):
                    return
            time.sleep(0.05)
        raise TimeoutError(f"topic {name} has no leaders yet")
