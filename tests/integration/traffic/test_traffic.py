"""The simulator against a scripted model and a real broker: bounded, counted, published."""

from __future__ import annotations

import asyncio
import random
from itertools import repeat
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from consumers.formats import decode
from producers.traffic.arrivals import gaps
from producers.traffic.prompts import Prompt, built_in
from producers.traffic.publishing import Publisher
from producers.traffic.simulator import Simulator
from sentinel.clock import SystemClock
from sentinel.embedded.scripted_model import ScriptedModel
from sentinel.events import PromptEvent, RawRecord
from sentinel.settings import Kafka
from tests.support.brokers import Broker

pytestmark = pytest.mark.timeout(60)


async def _nothing(*_: Any) -> None:
    return None


@pytest.mark.parametrize("record_format", ["native", "cloudevents", "openai"])
async def test_exchanges_become_events(embedded_broker: Broker, record_format: str) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    kafka = Kafka(bootstrap_servers=(embedded_broker.bootstrap,), topics=(topic,))
    async with (
        ScriptedModel(obeys="nothing of this kind") as model,
        Publisher(kafka, record_format, None) as publisher,
    ):
        simulator = Simulator(
            model_url=model.url,
            model="tiny",
            prompts=built_in(random.Random(1), 0.5),
            gaps=gaps(200, random.Random(1)),
            publish=publisher.publish,
            clock=SystemClock(),
        )
        counts = await simulator.run(requests=30, seconds=None, stop=asyncio.Event())
    assert (counts.arrived, counts.answered, counts.failed, counts.dropped) == (30, 30, 0, 0)

    consumer = AIOKafkaConsumer(bootstrap_servers=embedded_broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    records: list[Any] = []
    while len(records) < 30:
        for batch in (await consumer.getmany(timeout_ms=5000)).values():
            records += batch
    await consumer.stop()
    ids = set()
    for record in records:
        raw = RawRecord(topic, 0, record.offset, record.timestamp, record.key, record.value, record.headers)
        (event,) = decode(raw)
        assert isinstance(event, PromptEvent)
        assert event.identified
        assert event.response
        ids.add(event.event_id)
    assert len(ids) == 30


async def test_a_stuck_model_cannot_pile_up_requests() -> None:
    async with ScriptedModel(obeys="nothing of this kind") as model:
        model.set_faults(hang_rate=1.0)
        simulator = Simulator(
            model_url=model.url,
            model="tiny",
            prompts=repeat(Prompt("Hello")),
            gaps=repeat(0.001),
            publish=_nothing,
            clock=SystemClock(),
            max_in_flight=8,
            timeout_s=1.5,
        )
        worst = 0

        async def watch() -> None:
            nonlocal worst
            while True:
                worst = max(worst, simulator.counts.in_flight)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        counts = await simulator.run(requests=200, seconds=None, stop=asyncio.Event())
        watching.cancel()
    assert worst == 8
    assert counts.arrived == 200
    assert counts.answered == 0
    assert counts.failed + counts.dropped == 200
    assert counts.dropped >= 150
