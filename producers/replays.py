"""Dead letters sent to their topic again, with the id that the lost item would have had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from aiokafka.errors import KafkaError

from producers.kafka import NEEDS_OPERATOR, TOO_LARGE, make_producer
from sentinel.announcements import producer_headers
from sentinel.errors import CommandError, UnavailableError
from sentinel.events import EVENT_ID_HEADER, REPLAY_ITEM_HEADER, REPLAY_TOKEN_HEADER, Headers
from sentinel.store import dead_letters
from sentinel.store.dead_letters import DeadLetterRecord

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from sentinel.settings import Kafka
    from sentinel.store.connections import Connect


@asynccontextmanager
async def replay_producer(kafka: Kafka) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer. Raises UnavailableError where no broker answers, ConfigurationError for TLS files."""
    producer = make_producer(kafka, role="replay")
    try:
        try:
            await producer.start()
        except KafkaError as error:
            raise UnavailableError(f"Kafka does not answer: {type(error).__name__}") from error
        yield producer
    finally:
        await producer.stop()


async def replay(
    connect: Connect, producer: AIOKafkaProducer, letter_ids: Sequence[UUID], *, to: str | None = None
) -> AsyncIterator[tuple[UUID, bool]]:
    """Send letters one after the other; yields each id and whether it was there to send.

    The token is committed before the record leaves, so that no consumer sees a token that is not stored yet;
    the letter counts as replayed when the broker has acknowledged. Interrupted in between, it is sent again by
    the next call, and its item is then a duplicate.

    Raises:
        CommandError: the broker refuses the record, or the topic does not exist.
        UnavailableError: the broker is away.
    """
    for letter_id in letter_ids:
        async with connect() as conn:
            record = await dead_letters.get(conn, letter_id)
            if record is None:
                yield letter_id, False
                continue
            event_id, token = await dead_letters.prepare_replay(conn, record)
        topic = to or record.summary.topic
        try:
            await producer.send_and_wait(
                topic,
                value=record.value,
                key=record.key,
                headers=list(replay_headers(record, event_id, token)),
            )
        except TOO_LARGE as error:
            raise CommandError(
                f"{letter_id}: {topic} takes no record of {record.summary.size} bytes"
            ) from error
        except NEEDS_OPERATOR as error:
            raise CommandError(f"{topic} cannot be written: {type(error).__name__}") from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise UnavailableError(f"Kafka does not answer: {type(error).__name__}") from error
        async with connect() as conn:
            await dead_letters.mark_replayed(conn, letter_id)
        yield letter_id, True


def replay_headers(record: DeadLetterRecord, event_id: UUID, token: str) -> Headers:
    """The record's own headers, then ours: id, token, and which item of the record is meant."""
    return (
        *producer_headers(record.headers),
        (EVENT_ID_HEADER, str(event_id).encode()),
        (REPLAY_TOKEN_HEADER, token.encode()),
        (REPLAY_ITEM_HEADER, str(record.summary.item).encode()),
    )
