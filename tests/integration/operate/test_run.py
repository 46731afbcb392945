"""``sentinel run`` under a service manager: what it says, and with which status it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import asyncpg

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.store.engine import libpq_url
from sentinel.store.migrate import migrate
from tests.integration.operate.conftest import StartDaemon
from tests.support.accounting import account
from tests.support.brokers import ApacheKafka
from tests.support.events import many
from tests.support.waiting import wait_until


async def until_stored(settings: Mapping[str, str], events: int) -> None:
    async def stored() -> bool:
        return (await account(settings["database.url"], settings["kafka.topics"])).interactions == events

    await wait_until(stored, timeout=120, interval=0.1)


async def test_it_says_ready_status_watchdog_and_stopping_and_ends_with_0(
    settings: dict[str, str], topics: dict[str, str], kafka: ApacheKafka, start_daemon: StartDaemon
) -> None:
    topic = topics["kafka.topics"]
    kafka.produce(topic, many(20, unsafe_every=5))
    daemon = start_daemon(settings)
    await daemon.until("READY=1")
    await daemon.until("STATUS=ready: 2 partitions")
    await daemon.until("WATCHDOG=1")
    await until_stored(settings, 20)
    daemon.signal()
    assert await daemon.wait() == 0, daemon.output
    messages = daemon.notify.messages
    assert messages.count("READY=1") == messages.count("STOPPING=1") == 1
    assert messages.index("READY=1") < messages.index("WATCHDOG=1") < messages.index("STOPPING=1")
    assert "UNSAFE-MARK" not in daemon.output + "".join(messages)


async def test_stopping_asks_for_the_time_that_the_drain_may_take(
    settings: dict[str, str], start_daemon: StartDaemon
) -> None:
    daemon = start_daemon({**settings, "consumer.drain_s": "100"})
    await daemon.until("READY=1")
    daemon.signal()
    assert await daemon.wait() == 0, daemon.output
    (asked,) = [m for m in daemon.notify.messages if m.startswith("EXTEND_TIMEOUT_USEC=")]
    assert int(asked.partition("=")[2]) >= 100_000_000


async def test_the_second_signal_ends_it_at_once(
    settings: dict[str, str],
    topics: dict[str, str],
    kafka: ApacheKafka,
    guard: ScriptedGuard,
    start_daemon: StartDaemon,
) -> None:
    guard.set_faults(hang_rate=1.0)
    daemon = start_daemon(settings)
    await daemon.until("STATUS=ready: 2 partitions")
    kafka.produce(topics["kafka.topics"], many(4))
    await wait_until(lambda: guard.stats.requests, timeout=60)
    daemon.signal()
    await daemon.until("STOPPING=1")
    await asyncio.sleep(0.5)
    assert daemon.process.poll() is None, "it drains: the guard has not answered"
    second = time.monotonic()
    daemon.signal()
    assert await daemon.wait(30) == 128 + 15
    # Well before the end of the drain.
    assert time.monotonic() - second < 20
    found = await account(settings["database.url"], topics["kafka.topics"])
    assert found.interactions == found.advanced == 0, "what was not judged is read again"


async def test_wrong_settings_end_it_with_78(settings: dict[str, str], start_daemon: StartDaemon) -> None:
    daemon = start_daemon({**settings, "kafka.topic": "x"})
    assert await daemon.wait() == 78
    assert "kafka.topics" in daemon.output, "the nearest known key is named"
    assert daemon.notify.messages == []


async def test_an_old_schema_ends_it_with_78(
    settings: dict[str, str], empty_database_url: str, start_daemon: StartDaemon
) -> None:
    await migrate(empty_database_url, "0001")
    daemon = start_daemon({**settings, "database.url": empty_database_url})
    assert await daemon.wait() == 78
    assert "sentinel migrate" in daemon.output
    assert "READY=1" not in daemon.notify.messages


async def test_a_database_that_is_away_ends_it_with_1_for_a_restart(
    settings: dict[str, str], free_port: int, start_daemon: StartDaemon
) -> None:
    url = f"postgresql+asyncpg://sentinel:hidden-word@127.0.0.1:{free_port}/sentinel"
    daemon = start_daemon({**settings, "database.url": url})
    assert await daemon.wait() == 1
    assert "hidden-word" not in daemon.output


async def test_a_second_process_of_one_static_member_ends_with_78(
    settings: dict[str, str], start_daemon: StartDaemon
) -> None:
    static = {**settings, "kafka.instance_id": "host-1"}
    first = start_daemon(static)
    await first.until("READY=1")
    second = start_daemon(static)
    assert await second.wait() == 78
    assert "host-1" in second.output
    other = start_daemon({**settings, "kafka.instance_id": "host-2"})
    await other.until("READY=1")
    assert first.process.poll() is None
    for daemon in (first, other):
        daemon.signal()
        assert await daemon.wait() == 0, daemon.output


async def test_the_watchdog_is_fed_while_the_guard_is_away(
    settings: dict[str, str],
    topics: dict[str, str],
    kafka: ApacheKafka,
    guard: ScriptedGuard,
    start_daemon: StartDaemon,
) -> None:
    kafka.produce(topics["kafka.topics"], many(4))
    guard.set_faults(error_rate=1.0)
    daemon = start_daemon({**settings, "daemon.breaker_failures": "1", "daemon.poller_deadline_s": "3"})
    await daemon.until("STATUS=not ready", timeout=60)
    await asyncio.sleep(4)  # longer than the deadline
    before = daemon.notify.messages.count("WATCHDOG=1")
    await wait_until(lambda: daemon.notify.messages.count("WATCHDOG=1") >= before + 3, timeout=60)
    guard.clear_faults()
    await until_stored(settings, 4)
    daemon.signal()
    assert await daemon.wait() == 0, daemon.output


async def test_the_database_records_who_owned_the_partitions(
    settings: dict[str, str], topics: dict[str, str], kafka: ApacheKafka, start_daemon: StartDaemon
) -> None:
    kafka.produce(topics["kafka.topics"], many(3))
    daemon = start_daemon(settings)
    await daemon.until("STATUS=ready: 2 partitions")
    daemon.signal()
    assert await daemon.wait() == 0, daemon.output
    conn = await asyncpg.connect(libpq_url(settings["database.url"]))
    try:
        owners = {row["owner"] for row in await conn.fetch("SELECT owner FROM consumer_offsets")}
    finally:
        await conn.close()
    assert len(owners) == 1
