"""What the spine promises on any broker: every record counted once, every kept item stored once.

The suite runs on the embedded broker and on a real Kafka; cases that need a capability are skipped where the
broker does not have it.
"""

from __future__ import annotations

import asyncio

import aiohttp
from structlog.testing import capture_logs

from daemon.assembly import make_source
from sentinel.embedded.scripted_guard import GARBAGE_MARK, ScriptedGuard
from sentinel.settings import Settings
from tests.support.accounting import account, assert_sums, next_offsets
from tests.support.brokers import Broker
from tests.support.events import encoded, many
from tests.support.kafka_client import Record
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until


async def test_events_end_as_verdicts_and_findings(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=4)
    await asyncio.to_thread(broker.produce, topic, many(300, unsafe_every=10))
    settings = settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
    )
    source = make_source(settings)
    async with running(settings, source=source) as service:
        await caught_up(service, 300)
        violent = {"category": "Violent"}
        assert (
            service.metrics.registry.get_sample_value("sentinel_finding_categories_total", violent) == 30
        ), "findings are counted under the guard's own categories"
    found = await account(database_url, topic)
    assert_sums(found, records=300)
    assert found.outcomes == {"stored": 300}
    assert found.findings == 30
    assert found.verdicts == 600
    assert found.holes == 0
    positions = await next_offsets(database_url, topic)
    assert sum(positions.values()) == 300
    # The source's own name: on the embedded broker each start joins a group of its own.
    committed = await asyncio.to_thread(broker.client.committed, source._options["group_id"], topic, 4)
    # What lag tools read is what was flushed: neither ahead of it nor left behind by the stop.
    assert committed == positions


async def test_every_kind_of_item_ends_in_its_outcome(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=1)
    same = encoded(1)
    records: list[bytes | Record] = [
        same,
        same,
        encoded(2, response=""),
        encoded(3, response=f"{GARBAGE_MARK} is what the guard says."),
        b"{not json",
        b'{"unknown": "schema"}',
        Record(value=None, key=b"k"),
        encoded(4, response="nul \x00 inside"),
        encoded(5, time="1970-01-01T00:00:00Z"),
        encoded(6, response="long " * 400_000),
        Record(value=encoded(7), timestamp=1),
    ]
    await asyncio.to_thread(broker.produce, topic, records)
    settings = settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
    )
    async with running(settings) as service:
        await caught_up(service, len(records))
    found = await account(database_url, topic)
    assert_sums(found, records=len(records))
    assert found.outcomes == {
        "stored": 5,
        "duplicate(seen)": 1,
        "unscored(empty_response)": 1,
        "unscored(unparseable)": 1,
        "dead_letter(invalid_json)": 1,
        "dead_letter(unknown_schema)": 1,
        "ignored(tombstone)": 1,
    }


async def test_a_second_start_reads_nothing_twice(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url
    )
    await asyncio.to_thread(broker.produce, topic, many(50))
    async with running(settings) as service:
        await caught_up(service, 50)
    await asyncio.to_thread(broker.produce, topic, many(50, start=50))
    async with running(settings) as service:
        await caught_up(service, 100)
    found = await account(database_url, topic)
    assert_sums(found, records=100)
    assert found.outcomes == {"stored": 100}


async def test_a_guard_outage_stops_intake_and_loses_nothing(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        consumer={"in_flight": 32},
    )
    guard.set_faults(error_rate=1.0)
    await asyncio.to_thread(broker.produce, topic, many(400, unsafe_every=4))
    with capture_logs() as lines:
        await _outage(settings, guard, database_url, topic)
    said = [line["event"] for line in lines if line["action"] == "breaker"]
    assert said == ["The guard is away; intake stops until it is back.", "The guard is back."]
    found = await account(database_url, topic)
    assert_sums(found, records=400)
    assert found.outcomes == {"stored": 400}
    assert found.findings == 100


async def _outage(settings: Settings, guard: ScriptedGuard, database_url: str, topic: str) -> None:
    async with running(settings) as service, aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{service.health.port}"

        async def closed() -> bool:
            async with client.get(f"{url}/readyz") as answer:
                # The cause, not that a probe failed.
                return answer.status == 503 and "the guard answered 500" in str(await answer.json())

        await wait_until(closed, timeout=60)
        await asyncio.sleep(2)
        async with client.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        in_flight = service.intake.scorer.in_flight
        assert 0 < in_flight <= 32 + 16
        assert service.metrics.registry.get_sample_value("sentinel_in_flight_events") == in_flight
        assert (await account(database_url, topic)).interactions == 0
        guard.clear_faults()
        await caught_up(service, 400)


async def test_a_flood_halts_the_partition_and_others_go_on(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    await asyncio.to_thread(
        broker.produce, topic, [Record(value=b"garbage", partition=0) for _ in range(500)]
    )
    await asyncio.to_thread(broker.produce, topic, [Record(value=v, partition=1) for v in many(200)])
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        consumer={"bad_consecutive": 50},
    )
    async with running(settings) as service:
        await caught_up(service, 250)
        await asyncio.sleep(0.5)
        halted = {t.partition.partition: t.halted for t in service.intake.loop.owned}
        assert halted == {0: "flood", 1: None}
    found = await account(database_url, topic)
    assert_sums(found, records=250)
    assert found.outcomes == {"stored": 200, "dead_letter(invalid_json)": 50}
