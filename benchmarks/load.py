"""Realistic prompt/response events of about 1 kB, laid on a Kafka topic as fast as librdkafka takes them.

Texts repeat (a pool drawn from a seed), ids never do: only its id tells an event from a duplicate.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

POOL = 2000
"""Distinct bodies; enough that compression and caches do not flatter anybody."""

ID_MARK = "00000000-0000-0000-0000-000000000000"

SYSTEM = "You are the support assistant of an online shop. Be brief, be kind, and never promise a refund."
MODELS = ("support-8b", "support-8b-2026-09", "search-3b", "mail-writer-14b")
TENANTS = ("north", "south", "lab", "outlet", "wholesale")
SUBJECTS = (
    "the parcel that should have come last week", "a kettle whose lid does not close",
    "the invoice of the last order", "two shirts in the wrong size", "how I can change my delivery address",
    "whether the garden chairs may stay outside in winter", "a code that the checkout does not accept",
    "the warranty of a washing machine", "a recipe for bread with three kinds of flour",
    "the difference between these two bicycle tyres",
)  # fmt: skip
OPENINGS = ("Hello, I have a question about", "Could you tell me about", "I need help with", "Please check")
SENTENCES = (
    "Thank you for writing to us.", "I have looked at the order and the last scan was on Tuesday evening.",
    "Parcels of this size usually take two to four working days.",
    "You can change this under Settings, then Addresses, until the parcel leaves our hall.",
    "If the lid still does not close, please send us a picture of the hinge.",
    "The invoice is attached to the confirmation; a second copy costs nothing.",
    "Both tyres fit your wheel, but the wider one is softer and rolls a little slower.",
    "Let the dough rest for forty minutes at room temperature, then fold it twice.",
    "Please keep the receipt: the warranty runs for three years from the day of purchase.",
    "Is there anything else that I can do for you today?",
)  # fmt: skip


def bodies(seed: int, size: int = POOL) -> list[tuple[bytes, bytes]]:
    """Draw `size` events as JSON, each cut in two where its id belongs.

    The same seed gives the same bodies.
    """
    draw = random.Random(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made = []
    for number in range(size):
        asked = f"{draw.choice(OPENINGS)} {draw.choice(SUBJECTS)}. Order {draw.randrange(10**9):09d}."
        messages = [{"role": "system", "content": SYSTEM}]
        for _ in range(draw.randrange(2)):
            messages.append({"role": "user", "content": f"It is about {draw.choice(SUBJECTS)}."})
            messages.append({"role": "assistant", "content": draw.choice(SENTENCES)})
        messages.append({"role": "user", "content": asked})
        event = {
            "id": ID_MARK,
            "time": (start + timedelta(milliseconds=731 * number)).isoformat(),
            "source": "shop-chat",
            "tenant": draw.choice(TENANTS),
            "model": draw.choice(MODELS),
            "conversation_id": f"c-{draw.getrandbits(48):012x}",
            "messages": messages,
            "response": " ".join(draw.choices(SENTENCES, k=draw.randint(4, 8))),
            "finish_reason": "stop",
            "usage": {"input_tokens": draw.randint(60, 180), "output_tokens": draw.randint(60, 140)},
        }
        before, after = json.dumps(event, separators=(",", ":")).split(ID_MARK)
        made.append((before.encode(), after.encode()))
    return made


class Load:
    """Events for one broker: topics, and as many records on them as asked for."""

    def __init__(self, bootstrap_servers: str, seed: int = 0) -> None:
        # librdkafka reports its own shutting down on standard error; warnings still show.
        self._client: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 4,
        }
        self._bodies = bodies(seed)
        # Ids are random in every run: a table that outlives a run must not take new events for old ones.
        self._ids = random.SystemRandom().getrandbits(64)
        self._made = 0
        self._partitions: dict[str, int] = {}

    def events(self, n: int) -> Iterator[bytes]:
        """The next `n` events; no two events of this object share an id (a UUID in text form)."""
        pool, size = self._bodies, len(self._bodies)
        for number in range(self._made, self._made + n):
            before, after = pool[number % size]
            # Scattered like random UUIDs, since ordered ids would flatter the primary key's index; an odd
            # multiplier never gives two numbers below 2**64 the same product.
            scattered = (number * 0x9E3779B97F4A7C15) & (2**64 - 1)
            yield before + str(UUID(int=scattered << 64 | self._ids)).encode() + after
        self._made += n

    async def create_topic(self, topic: str, partitions: int) -> None:
        """Make the topic that `produce` and `committed` are to use; `KafkaException` when it cannot be."""
        admin = AdminClient(self._client)
        future = admin.create_topics([NewTopic(topic, partitions, 1)])[topic]
        await asyncio.to_thread(future.result, 30)
        self._partitions[topic] = partitions

    async def delete_topic(self, topic: str) -> None:
        """Drop a topic, so that a long run does not fill the disk."""
        admin = AdminClient(self._client)
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result, 30)

    async def produce(self, topic: str, n: int) -> None:
        """Lay `n` events on `topic`, evenly over its partitions; returns when the broker has them all."""
        await asyncio.to_thread(self._produce, topic, n)

    def _produce(self, topic: str, n: int) -> None:
        failures: list[str] = []

        def delivered(error: object, _message: object) -> None:
            if error is not None:
                failures.append(str(error))

        producer = Producer(
            {
                **self._client,
                "acks": "all",
                "linger.ms": 20,
                "batch.size": 131072,
                # No codec: it would measure codecs, and not every peer has the same ones.
                "compression.type": "none",
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_048_576,
            }
        )
        partitions = self._partitions[topic]
        for number, event in enumerate(self.events(n)):
            while True:
                try:
                    producer.produce(topic, event, partition=number % partitions, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
            if number % 5000 == 0:
                producer.poll(0)
        left = producer.flush(60)
        if failures or left:
            raise RuntimeError(f"{len(failures)} events refused, {left} not sent: {failures[:1]}")

    async def committed(self, group: str, topic: str) -> tuple[int, int]:
        """How many records of `topic` the group has committed, and how many there are."""
        return await asyncio.to_thread(self._committed, group, topic)

    def _committed(self, group: str, topic: str) -> tuple[int, int]:
        consumer = Consumer({**self._client, "group.id": group, "enable.auto.commit": False})
        try:
            partitions = [TopicPartition(topic, number) for number in range(self._partitions[topic])]
            stored = consumer.committed(partitions, timeout=30)
            ends = [consumer.get_watermark_offsets(partition, timeout=30)[1] for partition in partitions]
        finally:
            consumer.close()
        return sum(max(position.offset, 0) for position in stored), sum(ends)
