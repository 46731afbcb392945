"""Two processes in one group: one is told to stop in the middle of its work, and the other takes over."""

from __future__ import annotations

import asyncio

import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard
from tests.integration.operate.conftest import StartDaemon
from tests.support.accounting import account, assert_sums, next_offsets
from tests.support.brokers import ApacheKafka
from tests.support.events import many
from tests.support.kafka_client import Record
from tests.support.waiting import wait_until

PARTITIONS = 4
UNSAFE_EVERY = 8


@pytest.mark.timeout(300)
async def test_a_stop_with_requests_under_way_loses_and_doubles_nothing(
    settings: dict[str, str], kafka: ApacheKafka, guard: ScriptedGuard, start_daemon: StartDaemon
) -> None:
    guard.set_faults(latency_low=0.1, latency_high=0.5)
    topic = await asyncio.to_thread(kafka.create_topic, partitions=PARTITIONS)
    settings = {**settings, "kafka.topics": topic}
    url = settings["database.url"]
    produced, flowing = 0, True

    async def traffic() -> None:
        nonlocal produced
        while flowing:
            events = many(40, unsafe_every=UNSAFE_EVERY, start=produced)
            records = [Record(value=event, partition=n % PARTITIONS) for n, event in enumerate(events)]
            await asyncio.to_thread(kafka.produce, topic, records)
            produced += 40
            await asyncio.sleep(0.2)

    async def every_partition_is_behind() -> bool:
        ends = await asyncio.to_thread(kafka.client.end_offsets, topic, PARTITIONS)
        passed = await next_offsets(url, topic)
        return all(0 < passed.get(partition, 0) < end for partition, end in ends.items())

    async def all_is_passed() -> bool:
        return (await account(url, topic)).records >= produced

    leaving, staying = start_daemon(settings), start_daemon(settings)
    for daemon in (leaving, staying):
        await daemon.until(f"STATUS=ready: {PARTITIONS // 2} partitions", timeout=60)
    flow = asyncio.create_task(traffic())
    try:
        await wait_until(every_partition_is_behind, timeout=60)
        leaving.signal()
        assert await leaving.wait() == 0, leaving.output
        await staying.until(f"STATUS=ready: {PARTITIONS} partitions", timeout=60)
        await asyncio.sleep(1)
    finally:
        flowing = False
        await flow
    await wait_until(all_is_passed, timeout=60, interval=0.2)
    staying.signal()
    assert await staying.wait() == 0, staying.output

    found = await account(url, topic)
    assert_sums(found, records=produced)
    assert found.outcomes == {"stored": produced}
    assert found.verdicts == 2 * produced
    assert found.findings == produced // UNSAFE_EVERY
    positions = await next_offsets(url, topic)
    group = settings["kafka.group_id"]
    assert await asyncio.to_thread(kafka.client.committed, group, topic, PARTITIONS) == positions
