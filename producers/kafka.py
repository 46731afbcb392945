"""The Kafka producer of everything that goes out, and what its errors mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from sentinel.kafka_security import security_arguments

if TYPE_CHECKING:
    from sentinel.settings.stream import Kafka

LINGER_MS = 10
"""Wait for a batch to fill: what leaves here is behind the offset, so nobody waits for it."""

MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""Our own limit stands above any record that could have been consumed; the broker's limit decides."""

MAX_BATCH_BYTES = 256 * 1024
"""Below every broker's default limit, so that only a single large record can be refused for its size."""

TOO_LARGE = (MessageSizeTooLargeError,)
"""The broker will never take this record as it is."""

NEEDS_OPERATOR = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)
"""Waiting alone does not help: a topic, a right or a password is missing."""


def make_producer(kafka: Kafka, *, role: str) -> AIOKafkaProducer:
    """A producer that is not started yet; call it inside the running loop.

    ``role`` is added to the client id. Idempotent with acks from all in-sync replicas: a record acknowledged
    here survives the loss of its leader, and the client's own retries do not repeat it.

    Raises:
        ConfigurationError: the TLS files cannot be used.
    """
    return AIOKafkaProducer(
        bootstrap_servers=list(kafka.bootstrap_servers),
        client_id=f"{kafka.client_id}-{role}",
        acks="all",
        enable_idempotence=True,
        linger_ms=LINGER_MS,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=MAX_REQUEST_BYTES,
        compression_type="lz4",
        request_timeout_ms=kafka.request_timeout_ms,
        metadata_max_age_ms=kafka.metadata_max_age_ms,
        **security_arguments(kafka.security),
    )


async def close_at_once(producer: AIOKafkaProducer) -> None:
    """End a producer whose `stop` takes too long: it waits until what is buffered is sent or expires.

    Used at the end of the process only; records under way may or may not reach the broker.
    """
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
    await producer.client.close()
    if sender is not None:
        # It waits for requests under way, which the closed connections have just failed.
        await asyncio.wait([sender], timeout=2.0)
