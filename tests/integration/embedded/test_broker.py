"""The embedded broker: what it can do, and that what it says it cannot do is so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from sentinel.embedded.broker import EMBEDDED, EmbeddedBroker, EmbeddedBrokerProcess
from sentinel.errors import ConfigurationError, UnavailableError
from tests.support.brokers import Embedded
from tests.support.kafka_client import KafkaClient, Record
from tests.support.waiting import wait_until


def consumer(bootstrap: str, topic: str, group: str, **changes: Any) -> AIOKafkaConsumer[bytes, bytes]:
    """With the settings that the daemon ships."""
    settings: dict[str, Any] = {
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "session_timeout_ms": 45_000,
        "heartbeat_interval_ms": 3_000,
        "rebalance_timeout_ms": 60_000,
        "max_poll_interval_ms": 600_000,
        "fetch_max_wait_ms": 500,
        "max_partition_fetch_bytes": 1 << 20,
        "fetch_max_bytes": 50 << 20,
        "partition_assignment_strategy": [StickyPartitionAssignor],
        "metadata_max_age_ms": 60_000,
    }
    return AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=group, **(settings | changes))


@pytest.mark.parametrize("instance", [None, "host:unit"])
async def test_one_member_reads_seeks_and_commits(embedded_broker: Embedded, instance: str | None) -> None:
    topic = embedded_broker.create_topic(partitions=3)
    embedded_broker.produce(topic, [Record(b"%d" % n, partition=n % 3) for n in range(300)])
    member = consumer(embedded_broker.bootstrap, topic, "group", group_instance_id=instance)
    await member.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(3)]
        assert member.assignment() == set(partitions)
        assert await member.beginning_offsets(partitions) == dict.fromkeys(partitions, 0)
        assert await member.end_offsets(partitions) == dict.fromkeys(partitions, 100)
        for partition in partitions:
            member.seek(partition, 10)
        values: set[int] = set()
        while len(values) < 270:
            for records in (await member.getmany(*partitions, timeout_ms=500)).values():
                values |= {int(record.value or b"") for record in records}
        assert values == set(range(30, 300))
        await member.commit({partitions[0]: 77})
        assert await member.committed(partitions[0]) == 77
    finally:
        await member.stop()


async def test_a_first_member_does_not_wait_for_others(embedded_broker: Embedded) -> None:
    """The library's default delay of a first rebalance alone is 3 s; one of five may meet other work of the machine."""
    topic = embedded_broker.create_topic(partitions=1)
    took = []
    for number in range(5):
        member = consumer(embedded_broker.bootstrap, topic, f"group-{number}")
        began = time.monotonic()
        try:
            await member.start()
            took.append(time.monotonic() - began)
        finally:
            await member.stop()
        if took[-1] < 3:
            return
    pytest.fail(f"groups were joined after {took} s")


async def test_an_idempotent_producer_writes_each_record_once(embedded_broker: Embedded) -> None:
    topic = embedded_broker.create_topic(partitions=2)
    producer = AIOKafkaProducer(
        bootstrap_servers=embedded_broker.bootstrap, acks="all", enable_idempotence=True, linger_ms=5
    )
    await producer.start()
    try:
        sent = [await producer.send(topic, b"%d" % n, key=b"%d" % n) for n in range(500)]
        places = {(landed.partition, landed.offset) for landed in await asyncio.gather(*sent)}
    finally:
        await producer.stop()
    assert len(places) == 500
    assert sum(embedded_broker.client.end_offsets(topic, 2).values()) == 500


async def test_a_topic_can_be_made_anew(embedded_broker: Embedded) -> None:
    embedded_broker.create_topic("again", partitions=1)
    embedded_broker.produce("again", [b"old"] * 5)
    embedded_broker.delete_topic("again")
    embedded_broker.create_topic("again", partitions=1)
    assert embedded_broker.client.end_offsets("again", 1) == {0: 0}
    with pytest.raises(UnavailableError, match="topic_create again"):
        embedded_broker.create_topic("again")


# What it says it cannot do: these fail when librdkafka learns it, and the capability may then be granted.


async def test_not_durable_acknowledged_records_vanish_beyond_five_megabytes(
    embedded_broker: Embedded,
) -> None:
    assert not EMBEDDED.durable
    topic = embedded_broker.create_topic(partitions=1)
    assert len(embedded_broker.produce(topic, [os.urandom(500_000) for _ in range(16)])) == 16
    member = consumer(embedded_broker.bootstrap, topic, "group")
    await member.start()
    partition = TopicPartition(topic, 0)
    kept = 16 - (await member.beginning_offsets([partition]))[partition]
    await member.stop()
    assert 8 <= kept <= 11


async def test_no_rebalance_a_group_cannot_be_joined_again_but_a_fresh_one_can(
    embedded_broker: Embedded,
) -> None:
    assert not EMBEDDED.rebalance
    topic = embedded_broker.create_topic(partitions=1)
    embedded_broker.produce(topic, [b"x"])

    async def read(group: str) -> bytes:
        member = consumer(
            embedded_broker.bootstrap, topic, group, auto_offset_reset="earliest", request_timeout_ms=3_000
        )
        try:
            await member.start()
            return bytes((await member.getone()).value or b"")
        finally:
            await member.stop()

    assert await asyncio.wait_for(read("first"), 60) == b"x"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read("first"), 8)
    assert await asyncio.wait_for(read("second"), 60) == b"x"


def test_no_restart_another_address_another_identity_and_no_records() -> None:
    assert not EMBEDDED.restart
    seen = set()
    broker = EmbeddedBroker({"t": 1})
    for _ in range(2):
        with broker:
            client = KafkaClient(broker.bootstrap)
            assert client.end_offsets("t", 1) == {0: 0}
            client.produce("t", [b"x"])
            client.close()
            seen.add((broker.bootstrap, broker.cluster_id))
    assert len(seen) == 2
    with pytest.raises(ConfigurationError, match="does not run"):
        _ = broker.bootstrap
    with pytest.raises(ConfigurationError, match="does not run"):
        broker.create_topic("t")


# -- as a process


async def test_the_process_serves_its_topics_and_starts_empty_again(tmp_path: Path) -> None:
    async with EmbeddedBrokerProcess(tmp_path, {"events": 3, "out": 1}) as broker:
        client = KafkaClient(broker.bootstrap)
        assert len(client.produce("events", [Record(b"x", partition=2)])) == 1
        assert client.end_offsets("events", 3) == {0: 0, 1: 0, 2: 1}
        assert client.cluster_id() == broker.cluster_id
        client.close()
        before = broker.bootstrap, broker.cluster_id, broker.pid
        await asyncio.to_thread(broker.kill)
        assert broker.pid is None
        await asyncio.to_thread(broker.start)
        client = KafkaClient(broker.bootstrap)
        assert client.end_offsets("events", 3) == {0: 0, 1: 0, 2: 0}
        client.close()
        assert broker.cluster_id != before[1]
    assert broker.pid is None
    assert not (tmp_path / "broker.json").exists()


def test_the_process_says_why_it_did_not_start(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="topic t: 0 partitions"):
        EmbeddedBrokerProcess(tmp_path, {"t": 0}).start()


async def test_the_process_ends_with_a_killed_owner(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from sentinel.embedded.broker import EmbeddedBrokerProcess as Broker;"
        "broker = Broker(pathlib.Path(sys.argv[1])); broker.start(); print(broker.pid, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(Path.cwd())}) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        broker = psutil.Process(pid)
        assert broker.status() != psutil.STATUS_ZOMBIE
        owner.kill()

    def ended() -> bool:
        # A container without an init leaves it a zombie.
        return not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE

    await wait_until(ended, timeout=60)
