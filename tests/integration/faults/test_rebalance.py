"""Two daemons in one group: partitions move while events flow, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.store.engine import libpq_url
from tests.support.accounting import account, assert_sums
from tests.support.brokers import Broker
from tests.support.events import many
from tests.support.service import running, settings_for
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def guard(guard: ScriptedGuard) -> ScriptedGuard:
    guard.set_faults(latency_low=0.001, latency_high=0.15)
    return guard


@pytest.mark.needs("rebalance")
async def test_two_daemons_share_and_hand_over(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    topic = await asyncio.to_thread(broker.create_topic, partitions=6)
    settings = settings_for(
        bootstrap=broker.bootstrap, topic=topic, database_url=database_url, guard_url=guard.url, group=topic
    )
    produced = 0
    flowing = True

    async def traffic() -> None:
        nonlocal produced
        while flowing:
            await asyncio.to_thread(broker.produce, topic, many(40, unsafe_every=8, start=produced))
            produced += 40
            await asyncio.sleep(0.1)

    flow = asyncio.create_task(traffic())
    async with running(settings) as first:
        await wait_until(lambda: first.intake.loop.ready and len(first.intake.loop.owned) == 6, timeout=60)
        async with running(settings) as second:
            await wait_until(
                lambda: len(first.intake.loop.owned) == 3 and len(second.intake.loop.owned) == 3, timeout=60
            )
            await asyncio.sleep(2)
        # The second left while events flow: its partitions come back.
        await wait_until(lambda: len(first.intake.loop.owned) == 6, timeout=60)
        await asyncio.sleep(1)
        flowing = False
        await flow

        async def passed() -> bool:
            return (await account(database_url, topic)).records >= produced

        await wait_until(passed, timeout=60, interval=0.2)
    found = await account(database_url, topic)
    assert_sums(found, records=produced)
    assert found.outcomes == {"stored": produced}
    assert found.findings == produced // 8


async def test_a_process_that_lost_its_partitions_cannot_write(
    broker: Broker, database_url: str, guard: ScriptedGuard
) -> None:
    """Another owner raises the epoch behind the daemon's back: its next flush is refused, then it takes over anew."""
    topic = await asyncio.to_thread(broker.create_topic, partitions=2)
    settings = settings_for(
        bootstrap=broker.bootstrap,
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        group=topic,
        consumer={"halt_check_s": 60.0},
    )
    async with running(settings) as service:
        await wait_until(lambda: service.intake.loop.ready, timeout=60)
        conn = await asyncpg.connect(libpq_url(database_url))
        await conn.execute(
            "UPDATE consumer_offsets SET epoch = epoch + 1, owner = 'thief' WHERE partition = 0"
        )
        await asyncio.to_thread(broker.produce, topic, many(200))

        async def passed() -> bool:
            return (await account(database_url, topic)).records >= 200

        await wait_until(passed, timeout=60, interval=0.1)
        epoch = await conn.fetchval("SELECT epoch FROM consumer_offsets WHERE partition = 0")
        await conn.close()
    assert epoch == 3
    found = await account(database_url, topic)
    assert_sums(found, records=200)
    assert found.outcomes == {"stored": 200}
    assert b"sentinel_fenced_partitions_total 1.0" in service.metrics.exposition()[0]
