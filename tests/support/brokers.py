"""One face for the brokers that a contract suite runs on."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from sentinel.embedded.broker import APACHE_KAFKA, EMBEDDED, BrokerCapabilities, EmbeddedBroker
from tests.support.kafka_client import KafkaClient, Record


class Broker(ABC):
    """A running broker; ``capabilities`` says what it can be asked."""

    capabilities: BrokerCapabilities

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.client = KafkaClient(bootstrap)

    @abstractmethod
    def create_topic(
        self, name: str | None = None, *, partitions: int = 4, config: Mapping[str, str] | None = None
    ) -> str:
        """Make a topic (a random name where none is given) and return its name."""

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Delete it, records and all."""

    def produce(self, topic: str, records: Iterable[Record | bytes]) -> list[tuple[int, int]]:
        """Write records and return ``(partition, offset)`` of each. Blocks until all are acknowledged."""
        return self.client.produce(topic, records)

    def cluster_id(self) -> str:
        return self.client.cluster_id()

    def close(self) -> None:
        self.client.close()


class ApacheKafka(Broker):
    capabilities = APACHE_KAFKA

    def create_topic(
        self, name: str | None = None, *, partitions: int = 4, config: Mapping[str, str] | None = None
    ) -> str:
        return self.client.create_topic(name, partitions=partitions, config=config)

    def delete_topic(self, name: str) -> None:
        self.client.delete_topic(name)


class Embedded(Broker):
    capabilities = EMBEDDED

    def __init__(self, server: EmbeddedBroker) -> None:
        super().__init__(server.bootstrap)
        self.server = server

    def create_topic(
        self, name: str | None = None, *, partitions: int = 4, config: Mapping[str, str] | None = None
    ) -> str:
        """``config`` is not supported: the mock broker has none."""
        if config:
            raise ValueError("the embedded broker has no topic settings")
        name = name or f"t-{uuid.uuid4().hex[:12]}"
        self.server.create_topic(name, partitions=partitions)
        return name

    def delete_topic(self, name: str) -> None:
        self.server.delete_topic(name)
