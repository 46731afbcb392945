"""Every change of service reaches the topic, in the order of its generation."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import orjson
from jsonschema import Draft202012Validator

from producers.kafka import make_producer
from producers.relay import Relay, RelayLimits
from sentinel.clock import SystemClock
from sentinel.resources import data_path
from sentinel.settings import Kafka, Settings
from sentinel.store.connections import Connect
from tests.integration.promotion.stage import MODEL, Stage
from tests.support.brokers import Embedded
from tests.support.relays import RecordedMetrics, read_all
from tests.support.waiting import wait_until
from trainer.promote import promote
from trainer.rollback import rollback


async def test_promotions_and_rollbacks_reach_the_topic_in_order(
    stage: Stage, settings: Settings, connect: Connect, embedded_broker: Embedded
) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    settings = settings.model_copy(
        update={"kafka": Kafka(bootstrap_servers=(embedded_broker.bootstrap,), promotions_topic=topic)}
    )
    stop = asyncio.Event()
    metrics = RecordedMetrics()
    relay = Relay(
        topic,
        connect,
        lambda: make_producer(settings.kafka, role="relay-promotions"),
        clock=SystemClock(),
        metrics=metrics,
        ordered=True,
        limits=RelayLimits(),
    )
    running = asyncio.create_task(relay.run(stop))
    try:
        await stage.adapter("a")
        await promote(connect, settings, MODEL, "a", actor="test")
        await stage.adapter("b", incumbent="a")
        await promote(connect, settings, MODEL, "b", actor="test")
        await rollback(connect, settings, MODEL, actor="test", reason="worse")
        relay.wake()
        await wait_until(lambda: metrics.sent_rows[topic] >= 3, 60)
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await running
    landed = await read_all(embedded_broker.bootstrap, topic)
    schema = json.loads((data_path("configs") / "schemas" / "promotion.schema.json").read_text())
    documents = [orjson.loads(record.value or b"") for record in landed]
    for document in documents:
        Draft202012Validator(schema).validate(document)
    assert {record.key for record in landed} == {MODEL.encode()}
    assert [(one["generation"], one["action"], one["adapter"]) for one in documents] == [
        (1, "promote", "a"),
        (2, "promote", "b"),
        (3, "rollback", "a"),
    ]
