"""The simulator against a scripted model and a real broker: bounded, counted, published."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from consumers.formats import decode
from producers.traffic.arrivals import gaps
from producers.traffic.formats import FORMATS
from producers.traffic.prompts import Prompt, built_in
from producers.traffic.publishing import Publisher
from producers.traffic.simulator import Simulator
from sentinel.clock import SystemClock
from sentinel.embedded.scripted_model import ScriptedModel
from sentinel.errors import UnavailableError
from sentinel.events import PromptEvent, RawRecord
from sentinel.settings import Kafka
from tests.support.brokers import Broker

pytestmark = pytest.mark.timeout(300)


async def _records(broker: Broker, topic: str, expected: int) -> list[Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    records: list[Any] = []
    while len(records) < expected:
        for batch in (await consumer.getmany(timeout_ms=5000)).values():
            records += batch
    await consumer.stop()
    return records


async def _nothing(*_: Any) -> None:
    return None


@pytest.mark.parametrize("record_format", FORMATS)
async def test_exchanges_become_events(embedded_broker: Broker, record_format: str) -> None:
    held = FORMATS[record_format]
    expected = 5 if held.several else 30  # four records of seven, and the rest
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    kafka = Kafka(bootstrap_servers=(embedded_broker.bootstrap,), topics=(topic,))
    async with (
        ScriptedModel(obeys="nothing of this kind") as model,
        Publisher(kafka, held, None, per_record=7, compress=record_format.startswith("otlp")) as publisher,
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

    records = await _records(embedded_broker, topic, expected)
    ids = set()
    for record in records:
        raw = RawRecord(topic, 0, record.offset, record.timestamp, record.key, record.value, record.headers)
        for event in decode(raw):
            assert isinstance(event, PromptEvent)
            assert event.identified
            assert event.response
            ids.add(event.event_id)
    assert len(ids) == 30


async def test_the_command_end_to_end(embedded_broker: Broker, tmp_path: Path) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    prompts = [
        f"Tell me about {what}" for what in ("apples", "the long river", "ships of old", "bread and salt")
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(orjson.dumps({"prompt": text}).decode() for text in [*prompts, prompts[0], ""]))
    async with ScriptedModel(obeys="nothing of this kind") as model:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "daemon.cli", "traffic", f"--model-url={model.url}", "--model=tiny",
            f"--prompts={file}", "--rate=200", "--requests=12", "--format=otlp-span", "--gzip", "--per-record=5",
            f"--log={tmp_path / 'log.jsonl'}",
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(sys.path),
                "SENTINEL_KAFKA__BOOTSTRAP_SERVERS": embedded_broker.bootstrap,
                "SENTINEL_KAFKA__TOPICS": topic,
            },
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out.decode().strip() == "12 arrived, 12 answered, 0 failed, 0 found no place"
    assert "4 prompts; left out: {'exact duplicate': 1, 'empty': 1}" in err.decode()
    records = await _records(embedded_broker, topic, 3)
    events = [
        event
        for record in records
        for event in decode(RawRecord(topic, 0, record.offset, 0, None, record.value, record.headers))
    ]
    texts = Counter(event.last_user_text for event in events if isinstance(event, PromptEvent))
    assert texts == Counter(dict.fromkeys(prompts, 3))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 12


async def test_it_runs_for_the_time_asked_for() -> None:
    async with ScriptedModel(obeys="nothing of this kind") as model:
        simulator = Simulator(
            model_url=model.url,
            model="tiny",
            prompts=repeat(Prompt("Hello")),
            gaps=repeat(0.05),
            publish=_nothing,
            clock=SystemClock(),
        )
        counts = await simulator.run(requests=None, seconds=0.52, stop=asyncio.Event())
    assert counts.arrived == counts.answered == 10


async def test_a_broker_that_is_away_ends_the_run(free_port: int) -> None:
    async def refuse(*_: Any) -> None:
        raise UnavailableError("Kafka does not take the event")

    async with ScriptedModel(obeys="nothing of this kind") as model:
        simulator = Simulator(
            model_url=model.url,
            model="tiny",
            prompts=repeat(Prompt("Hello")),
            gaps=repeat(0.001),
            publish=refuse,
            clock=SystemClock(),
        )
        with pytest.raises(UnavailableError, match="does not take"):
            await simulator.run(requests=None, seconds=None, stop=asyncio.Event())
    kafka = Kafka(bootstrap_servers=(f"127.0.0.1:{free_port}",))
    with pytest.raises(UnavailableError, match="Kafka does not answer"):
        async with Publisher(kafka, FORMATS["native"], None):
            pytest.fail("it started")


async def test_an_answer_that_is_none_counts_as_failed() -> None:
    async with ScriptedModel(obeys="nothing of this kind") as model:
        model.set_faults(wrong_shape_rate=1.0)
        simulator = Simulator(
            model_url=model.url,
            model="tiny",
            prompts=repeat(Prompt("Hello")),
            gaps=repeat(0.001),
            publish=_nothing,
            clock=SystemClock(),
        )
        counts = await simulator.run(requests=5, seconds=None, stop=asyncio.Event())
    assert (counts.answered, counts.failed) == (0, 5)


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
