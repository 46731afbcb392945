"""What a log holds now, asked without joining a consumer group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from consumers.kafka import cluster_id_of
from sentinel.errors import CommandError, UnavailableError
from sentinel.kafka_security import security_arguments

if TYPE_CHECKING:
    from sentinel.settings import Kafka


class LogBounds(Struct, frozen=True):
    """One partition: offsets in [beginning, end) are there."""

    cluster_id: str
    beginning: int
    end: int


async def read_bounds(kafka: Kafka, topic: str, partition: int) -> LogBounds:
    """Ask the brokers for a partition's offsets and the cluster's id.

    Raises:
        CommandError: the topic or partition does not exist.
        UnavailableError: no broker answers.
        ConfigurationError: the TLS files cannot be used.
    """
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.errors import KafkaError

    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(kafka.bootstrap_servers),
        client_id=f"{kafka.client_id}-bounds",
        request_timeout_ms=kafka.request_timeout_ms,
        **security_arguments(kafka.security),
    )
    wanted = TopicPartition(topic, partition)
    try:
        await consumer.start()
        consumer.assign([wanted])
        # Offsets of a partition that does not exist would be waited for until the time-out.
        await consumer._client.force_metadata_update()  # no public accessor
        if partition not in (consumer.partitions_for_topic(topic) or ()):
            raise CommandError(f"the brokers know no partition {topic}/{partition}")
        beginning = await consumer.beginning_offsets([wanted])
        end = await consumer.end_offsets([wanted])
        return LogBounds(await cluster_id_of(consumer), beginning[wanted], end[wanted])
    except (KafkaError, OSError, TimeoutError) as error:
        raise UnavailableError(f"Kafka does not answer: {type(error).__name__}") from error
    finally:
        await consumer.stop()
