"""The real service inside the test's event loop, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from daemon.app import Service
from sentinel.settings import Settings
from tests.support.waiting import wait_until


def settings_for(
    *,
    bootstrap: str,
    topic: str,
    database_url: str,
    guard_url: str,
    group: str = "sentinel-test",
    **sections: Any,
) -> Settings:
    """Settings for a quick test service: short intervals, free ports; ``sections`` are merged in."""
    made: dict[str, dict[str, Any]] = {
        "kafka": {
            "bootstrap_servers": (bootstrap,),
            "topics": (topic,),
            "group_id": group,
            "session_timeout_ms": 9000,
            "heartbeat_interval_ms": 1000,
            "rebalance_timeout_ms": 10000,
            "fetch_max_wait_ms": 50,
        },
        "database": {"url": database_url, "pool_size": 4},
        "guard": {"base_url": guard_url, "name": "scripted-guard", "timeout_s": 30.0, "attempts": 2},
        "metrics": {"port": 0},
        "consumer": {"commit_interval_s": 0.2, "halt_check_s": 0.3, "drain_s": 10.0},
        "reprompt": {"enabled": False},
        "daemon": {"breaker_probe_s": 0.2, "breaker_failures": 2},
    }
    for name, values in sections.items():
        if isinstance(values, dict) and name != "served_models":
            made.setdefault(name, {}).update(values)
        else:
            made[name] = values
    return Settings.model_validate(made)


@asynccontextmanager
async def running(settings: Settings, **parts: Any) -> AsyncIterator[Service]:
    """A service that runs until the block ends, then stops gracefully; its failure fails the test."""
    service = Service(settings, **parts)
    task = asyncio.create_task(service.run(), name="service")
    started = asyncio.create_task(service.started.wait())
    task.add_done_callback(lambda _: service.stopping.set())
    try:
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield service
        service.stop()
        assert await asyncio.wait_for(task, 120)
    except AssertionError as error:
        # What the service died of says more than what did not come true without it.
        failure = task.exception() if task.done() and not task.cancelled() else None
        if failure is not None:
            raise failure from error
        raise
    finally:
        started.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def caught_up(service: Service, records: int, *, timeout: float = 120) -> None:
    """Wait until the service has passed so many records in all."""

    def passed() -> bool:
        if service.stopping.is_set():
            raise AssertionError("the service is stopping")
        return sum(t.next_offset for t in service.intake.loop.owned) >= records

    await wait_until(passed, timeout=timeout)
