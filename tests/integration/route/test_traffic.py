"""Simulated users who ask for the public name while the route reports what was said."""

from __future__ import annotations

import asyncio
import os
import sys

import orjson
from confluent_kafka import Consumer, TopicPartition

from sentinel.embedded.scripted_model import SAFE_ANSWER
from tests.integration.route.conftest import ADAPTER, PUBLIC, Make
from tests.support.brokers import Embedded
from tests.support.waiting import wait_until


async def test_traffic_without_publishing_is_published_by_the_route(
    make: Make, embedded_broker: Embedded
) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    kafka = {"kafka.bootstrap_servers": embedded_broker.bootstrap, "kafka.topics": topic}
    stage = await make(**{"route.publish": "true", **kafka})
    await stage.promote(ADAPTER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.cli", "traffic", f"--model-url={stage.url}", f"--model={PUBLIC}",
        "--no-publish", "--requests=25", "--rate=200",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out.decode() == "25 arrived, 25 answered, 0 failed, 0 found no place\n"

    def ends() -> int:
        return embedded_broker.client.end_offsets(topic, 1)[0]

    await wait_until(lambda: asyncio.to_thread(ends), 30)
    await wait_until(lambda: stage.metric("sentinel_route_events_total", outcome="published") == 25, 30)
    events = [orjson.loads(value) for value in await asyncio.to_thread(read, embedded_broker, topic, 25)]
    assert await asyncio.to_thread(ends) == 25
    assert {(event["source"], event["model"], event["served_by"]) for event in events} == {
        ("sentinel-route", PUBLIC, ADAPTER)
    }
    asked = sorted(str(request.messages[-1]["content"]) for request in stage.replicas[0].seen)
    assert sorted(str(event["messages"][-1]["content"]) for event in events) == asked
    assert {event["response"] for event in events} == {SAFE_ANSWER}


def read(broker: Embedded, topic: str, n: int) -> list[bytes]:
    """The first ``n`` values of a topic with one partition."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "reader", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        values: list[bytes] = []
        while len(values) < n:
            for message in consumer.consume(n - len(values), timeout=30):
                values.append(message.value() or b"")
        return values
    finally:
        consumer.close()
